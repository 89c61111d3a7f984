"""Tables as text and as data: decimals of a column, keys, and the way back from JSON."""

from __future__ import annotations

import json
import math

import pytest

from analysis.common.tables import Cell, Column, Table


def test_a_column_has_one_number_of_decimals() -> None:
    cells = [Cell(42.1, 26.1, 58.1), Cell(12.0, 9.0, 15.0), Cell(7.37, 6.08, 8.66), Cell(3.0), Cell(math.nan)]
    table = Table("t", ("", "x"), tuple((str(i), cell) for i, cell in enumerate(cells)))
    assert [row[1] for row in table.texts()[1:]] == ["42.1 ±16.0", "12.0 ±3.0", "7.4 ±1.3", "3.0", "–"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [((40.0, 160.0), ["40", "160"]), ((40.0, 33.5), ["40.0", "33.5"]), ((0.5, 2.0), ["0.50", "2.00"])],
)
def test_numbers_without_intervals(values: tuple[float, ...], texts: list[str]) -> None:
    table = Table("t", ("", "x"), tuple(("row", Cell(value)) for value in values))
    assert [row[1] for row in table.texts()[1:]] == texts


def test_json_has_stable_keys_and_gives_the_table_back() -> None:
    rows = (("PSR", Cell(0.5, 0.4, 0.6), Cell(math.nan), Cell(0.9, 0.1, 1.0, digits=4), "never"),)
    columns = ("", "Pass @8", Column("eff. sol.", "effective_solutions"), "log π: JVP R²", "step")
    table = Table("at matched steps (40)", columns, rows, "note", key="at_matched_steps")
    data = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert data["key"] == "at_matched_steps"
    assert list(data["rows"][0]) == ["name", "pass_at_8", "effective_solutions", "log_pi_jvp_r2", "step"]
    back = Table.from_json(data)
    assert back.texts() == table.texts()
    assert back.to_json() == table.to_json()


def test_keys_must_differ() -> None:
    with pytest.raises(ValueError, match=r"columns: expected a key of its own for each, got \['name', 'x', 'x'\]"):
        Table("t", ("", "x", "X"), ()).to_json()
