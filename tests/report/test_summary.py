"""The tables: which numbers stand where, and what is said about runs that cannot be compared."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from analysis.common.tables import Cell, Table
from analysis.errors import UsageError
from analysis.evaluation import pass_at_k_exact
from analysis.records import Experiment, write_experiment
from analysis.report import Summary, summarize
from tests.report.by_hand import STEPS, make_experiment, success


@pytest.fixture(scope="module")
def summary(experiment: Experiment) -> Summary:
    return summarize(experiment)


def table(summary: Summary, start: str) -> dict[str, dict[str, Any]]:
    (found,) = [one for one in summary.to_json()["tables"] if one["title"].startswith(start)]
    headings = found["headings"]
    return {row["name"]: {headings[key]: cell for key, cell in row.items()} for row in found["rows"]}


def test_base_and_methods_at_the_last_step(summary: Summary) -> None:
    rows = table(summary, "at matched steps")
    assert list(rows) == ["base", "PSR", "NSR"]
    p = np.array([success("PSR", STEPS, i, 1.0) for i in range(6)])
    assert rows["PSR"]["Pass @8"]["value"] == pytest.approx(pass_at_k_exact(p, 8).mean())
    cold = np.array([success("NSR", STEPS, i, 0.6) for i in range(6)])
    assert rows["NSR"]["T=0.6 @8"]["value"] == pytest.approx(pass_at_k_exact(cold, 8).mean())
    assert rows["base"]["Pass @1"]["value"] == pytest.approx(np.mean([success("PSR", 0, i, 1.0) for i in range(6)]))
    assert rows["PSR"]["H nats"]["value"] == pytest.approx(0.8)
    assert rows["NSR"]["eff. sol."]["value"] == pytest.approx(8.0)
    assert rows["NSR"]["corr. ratio"]["value"] == pytest.approx((0.625 + 0.75) / 2)
    assert rows["base"]["corr. ratio"]["value"] == pytest.approx(0.625)
    assert (rows["PSR"]["opt. steps"]["value"], rows["base"]["opt. steps"]["value"]) == (4, 0)


def test_matched_pass_at_1_compares_at_equal_distance(summary: Summary) -> None:
    rows = table(summary, "at matched Pass@1 = 0.425")  # what NSR, the slower one, reached
    assert rows["NSR"]["step"]["value"] == pytest.approx(2.0)
    assert rows["PSR"]["step"]["value"] == pytest.approx(1.0)
    assert rows["PSR"]["Pass @1"]["value"] == pytest.approx(rows["NSR"]["Pass @1"]["value"])
    assert rows["PSR"]["H nats"]["value"] == pytest.approx(0.9)
    assert rows["NSR"]["H nats"]["value"] == pytest.approx(0.8)


def test_every_level_is_shown(summary: Summary) -> None:
    rows = table(summary, "at every level")
    levels = [name for name in rows["PSR"] if name.startswith("H @")]
    assert len(levels) == 4
    assert rows["PSR"][levels[0]]["value"] > rows["PSR"][levels[-1]]["value"]


def test_predictions_are_compared_and_never_mixed(summary: Summary) -> None:
    rows = table(summary, "law and JVP")
    assert set(rows) == {"PSR +", "NSR −"}
    assert rows["NSR −"]["log π: sign"]["value"] == pytest.approx(7 / 8)
    assert rows["NSR −"]["log π: JVP R²"]["value"] == pytest.approx(1.0, abs=1e-6)


def test_where_the_time_went(summary: Summary) -> None:
    rows = table(summary, "where the time went")
    assert list(rows["PSR"])[1:] == ["update", "evaluate", "rollout", "all", "rollout tok/s", "ms an update"]
    found = {name: cell["value"] for name, cell in rows["NSR"].items() if name}
    # two steps of 2 + 1 + 0.5 s, 100 tokens a step in 0.5 s, two updates in 2 s
    assert found == {"update": 4, "evaluate": 2, "rollout": 1, "all": 7, "rollout tok/s": 200, "ms an update": 1000}


def test_a_task_with_modes_shows_them(summary: Summary, tmp_path: Path) -> None:
    rows = table(summarize(make_experiment(tmp_path / "e", modes=True)), "at matched steps")
    assert rows["base"]["mode"]["value"] == pytest.approx(0.1)
    assert rows["PSR"]["mode"]["value"] == pytest.approx(0.3)
    assert rows["PSR"]["p in"]["value"] == pytest.approx(0.8)
    p = np.mean([success("PSR", STEPS, i, 1.0) for i in range(6)])
    assert rows["PSR"]["p out"]["value"] == pytest.approx((p - 0.3 * 0.8) / 0.7)
    assert "mode" not in table(summary, "at matched steps")["PSR"]


def test_the_first_order_early_and_late(summary: Summary) -> None:
    rows = table(summary, "R² of the first order")
    assert set(rows) == {f"{label}, {kind}" for label in ("PSR", "NSR") for kind in ("own batch", "panel")}
    for name, cell in rows["PSR, own batch"].items():
        if name:  # the JVP is the whole change here, up to the rounding of the records
            assert cell["value"] == pytest.approx(1.0, abs=1e-6)


def test_several_seeds_give_intervals_over_seeds(three_seeds: Experiment) -> None:
    summary = summarize(three_seeds)
    assert summary.seeds == 3
    cell = table(summary, "at matched steps")["PSR"]["Pass @1"]
    assert cell["low"] == pytest.approx(cell["high"])  # the seeds are equal here
    assert "over 3 seeds" in summary.to_json()["tables"][0]["note"]


def test_one_seed_says_so(summary: Summary) -> None:
    assert "over prompts (one seed)" in summary.to_markdown()


def test_a_diverged_run_is_named_and_left_out(tmp_path: Path) -> None:
    summary = summarize(make_experiment(tmp_path / "e", statuses={"NSR": "diverged"}))
    assert list(table(summary, "at matched steps")) == ["base", "PSR"]
    assert any("NSR (seed 0) is diverged" in note for note in summary.notes)


def test_a_method_that_never_rises_is_shown_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.report.by_hand.success", lambda label, step, i, t: 0.3 + (0.1 if label == "PSR" else -0.05) * step
    )
    rows = table(summarize(make_experiment(tmp_path / "e")), "at matched Pass@1")
    assert rows["NSR"]["step"] == "never"
    assert rows["PSR"]["Pass @1"]["value"] == pytest.approx(0.5)


def test_without_a_common_level_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.report.by_hand.success", lambda label, step, i, t: 0.3 - 0.05 * step)
    summary = summarize(make_experiment(tmp_path / "e"))
    assert [one.title for one in summary.tables if "Pass@1" in one.title] == []
    assert any(note.startswith("No table at matched Pass@1") for note in summary.notes)


def test_nothing_evaluated_yet(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    write_experiment(folder, name="empty", recipe={}, hash="0" * 64, runs=[], versions={})
    with pytest.raises(UsageError, match="was evaluated yet"):
        summarize(Experiment(folder))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_of_any_width_shows_every_number(summary: Summary, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    summary.render(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for cell in (cell for one in summary.tables for row in one.rows for cell in row):
        assert all(word in text for word in str(cell).split())


def test_json_has_no_nan(summary: Summary) -> None:
    json.dumps(summary.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(0.534, 0.494, 0.574), "0.53 ±.04"),
        (Cell(0.9991, 0.9981, 1.0), "0.999 ±.001"),
        (Cell(123.4, 100.0, 140.0), "123 ±20"),
        (Cell(23.42, 23.0, 23.8), "23.4 ±.4"),
        (Cell(2.5, -1.0, 6.0), "2.5 ±3.5"),
        (Cell(160.0), "160"),
        (Cell(0.5), "0.50"),
        (Cell(0.9994, 0.9948, 0.99991, digits=4), "0.9994 (0.9948 to 0.9999)"),
        (Cell(0.9994, digits=3), "0.999"),
        (Cell(float("nan")), "–"),
    ],
)
def test_compact_notation(cell: Cell, text: str) -> None:
    assert str(cell) == text


def test_markdown_table() -> None:
    text = Table("t", ("", "a|b"), (("x", Cell(1.0)),), "n").to_markdown()
    assert text == "### t\n\n|  | a\\|b |\n|:--|--:|\n| x | 1 |\n\nn\n"
