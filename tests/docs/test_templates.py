"""Pages made from templates: their numbers are those of the committed results, and wrong sentences are errors."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from jinja2 import UndefinedError

from docs.generators import results, templates
from docs.generators.templates import StatementError, render

NAMES = [path.name for path in templates.FOLDER.iterdir()]


@pytest.fixture
def measured() -> dict[str, Any]:
    return copy.deepcopy({name: results.read(name) for name in ("main_job", "factorial", "noise")})


def entropy_gap(measured: dict[str, Any], table: str) -> dict[str, float]:
    (rows,) = (entry["rows"] for entry in measured["main_job"]["summary"]["tables"] if entry["key"] == table)
    (row,) = (row for row in rows if row["method"] == "NSR − PSR")
    gap: dict[str, float] = row["entropy_nats"]
    return gap


@pytest.mark.parametrize("name", NAMES)
def test_no_measured_number_is_typed(name: str) -> None:
    text = (templates.FOLDER / name).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.DOTALL)
    text = re.sub(r"(Python ≥ |arXiv |abs/)\d+\.\d+", "", text)
    assert re.findall(r"\d+\.\d\d+|±", text.replace("± one standard error", "")) == []


def test_the_page_shows_the_numbers_of_the_results(measured: dict[str, Any]) -> None:
    gap = entropy_gap(measured, "matched_steps")
    gap |= {"value": 0.7654, "low": 0.7001, "high": 0.8009}
    assert "NSR has 0.765 nats more than PSR [0.700, 0.801]" in render("README.md", measured)


def test_a_sentence_that_no_longer_holds_stops_the_page(measured: dict[str, Any]) -> None:
    gap = entropy_gap(measured, "matched_pass_at_1")
    gap |= {"value": 0.01, "low": -0.01, "high": 0.03}
    with pytest.raises(StatementError, match="at equal Pass@1 NSR has less entropy than PSR"):
        render("README.md", measured)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_number_stops_the_page(name: str, measured: dict[str, Any]) -> None:
    del measured["main_job"]["own_law"]["least"], measured["noise"]["crossings"]["path"]["at"]
    with pytest.raises(UndefinedError, match=r"no attribute '(least|at)'"):
        render(name, measured)
