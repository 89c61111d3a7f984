"""Pages made from templates: their numbers are those of the committed results, and wrong sentences are errors."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from analysis.probes import weight_accuracy
from docs.generators import results, templates
from docs.generators.__main__ import PAGES
from docs.generators.templates import StatementError, render

ROOT = Path(__file__).parents[2]
NAMES = [path.name for path in templates.FOLDER.iterdir()]
GENERATED = {page.path for page in PAGES.values()}
BY_HAND = [
    path
    for path in [ROOT / "CONTRIBUTING.md", ROOT / "notebooks/README.md", *(ROOT / "docs").rglob("*.md")]
    if str(path.relative_to(ROOT)) not in GENERATED
    and not re.search(r"docs/(templates|reference|notebooks|_build)/", str(path))
]
_COUNTS = r"(?:\d[\d.,]*|an?|two|three|four|five|six|ten|fifteen|twenty)"
# What is said of time and memory in the words of a measurement.
COST = re.compile(
    rf"(?:about|under|over|nearly|only) {_COUNTS} (?:(?:quiet )?seconds?|minutes?|hours?|[kMG]B)\b|\d ?(?:ms|[kMG]B)\b"
)


@pytest.fixture
def measured() -> dict[str, Any]:
    return copy.deepcopy({name: results.read(name) for name in templates.RESULTS})


def entropy_gap(measured: dict[str, Any], table: str) -> dict[str, float]:
    (rows,) = (entry["rows"] for entry in measured["main_job"]["summary"]["tables"] if entry["key"] == table)
    (row,) = (row for row in rows if row["method"] == "NSR − PSR")
    gap: dict[str, float] = row["entropy_nats"]
    return gap


def typed(text: str) -> str:
    """A page without its code, its placeholders, and numbers that are names."""
    text = re.sub(r"```.*?```|\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.DOTALL)
    return re.sub(r"(Python ≥ |arXiv |abs/|Qwen)\d+(\.\d+)?", "", text)


@pytest.mark.parametrize("name", NAMES)
def test_no_measured_number_is_typed(name: str) -> None:
    text = typed((templates.FOLDER / name).read_text(encoding="utf-8"))
    assert re.findall(r"\d+\.\d\d+|±", text) == []
    assert re.findall(r"[1-9]\d*%", text.replace("95% t", "").replace("95% interval", "")) == []
    assert COST.findall(text) == []


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.name)
def test_no_page_types_what_a_command_costs(path: Path) -> None:
    assert COST.findall(typed(path.read_text(encoding="utf-8"))) == []


def test_the_page_shows_the_numbers_of_the_results(measured: dict[str, Any]) -> None:
    gap = entropy_gap(measured, "matched_steps")
    gap |= {"value": 0.7654, "low": 0.7001, "high": 0.8009}
    assert "NSR has 0.765 nats more than PSR [0.700, 0.801]" in render("README.md", measured)


def test_a_sentence_that_no_longer_holds_stops_the_page(measured: dict[str, Any]) -> None:
    gap = entropy_gap(measured, "matched_pass_at_1")
    gap |= {"value": 0.01, "low": -0.01, "high": 0.03}
    with pytest.raises(StatementError, match="at equal Pass@1 NSR has less entropy than PSR"):
        render("README.md", measured)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("attach.md", "full_scale_runs.md", "train_a_real_model.md")]
)
def test_a_missing_number_stops_the_page(name: str, measured: dict[str, Any]) -> None:
    """Of the results that all pages but three share."""
    del measured["main_job"]["own_law"]["least"], measured["noise"]["crossings"]["path"]["at"]
    del measured["performance"]["commands"]["recipe-tiny"]["peak_bytes"]
    del measured["false_alarms"]["runs_with_alarm"], measured["offline"]["bytes_beside"]
    with pytest.raises(UndefinedError, match=r"no attribute '(least|at|peak_bytes|runs_with_alarm|bytes_beside)'"):
        render(name, measured)


def test_a_base_that_solves_every_prompt_is_not_recommended_for_large_k(measured: dict[str, Any]) -> None:
    measured["bases"]["bases"]["path"]["below"] = 0.0
    with pytest.raises(StatementError, match="some prompts are not solved in 256 samples by path"):
        render("choose_a_base.md", measured)


def test_estimates_of_memory_that_miss_stop_the_page(measured: dict[str, Any]) -> None:
    measured["real_models"]["peaks"][0]["measured"] *= 2
    with pytest.raises(StatementError, match="estimates of memory are right within a third"):
        render("train_a_real_model.md", measured)


def test_times_are_those_of_the_results(measured: dict[str, Any]) -> None:
    measured["performance"]["commands"]["first"] |= {"seconds": 141.0, "cpu_seconds": 250.0, "others": 0.02}
    page = render("performance.md", measured)
    assert "| the main job, base not yet cached | `make trace` | 2.4 minutes | 4.2 minutes |" in page
    assert re.search(r"main job, base not yet cached .* 2% \|$", page, re.MULTILINE)
    assert "about 2.4 minutes on" in render("README.md", measured)


def test_a_job_that_was_not_measured_has_no_row(measured: dict[str, Any]) -> None:
    del measured["performance"]["commands"]["recipe-tiny"]
    assert "recipe `tiny`" in render("performance.md")
    assert "recipe `tiny`" not in render("performance.md", measured)


def test_times_of_two_machines_do_not_share_a_page(measured: dict[str, Any]) -> None:
    measured["performance"]["commands"]["first"]["processor"] = "another"
    with pytest.raises(StatementError, match="all times are of one machine"):
        render("performance.md", measured)


def test_statistics_that_cost_much_more_than_the_product_stop_the_page(measured: dict[str, Any]) -> None:
    marks = measured["performance"]["benchmarks"]
    name, *_ = (name for name in marks if name.startswith("token_statistics: against_the_product["))
    marks[name]["extra"]["ratios"]["eager"]["median"] = 1.6
    with pytest.raises(StatementError, match="little more than the product"):
        render("performance.md", measured)


def test_the_bounds_of_weights_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "| logits in float32 or float64 | 0.2% |" in render("attach.md")
    monkeypatch.setattr(weight_accuracy, "FULL", 0.007)
    monkeypatch.setattr(weight_accuracy, "FUSED_GAP", 3e-6)
    page = render("attach.md")
    assert "| logits in float32 or float64 | 0.7% |" in page
    assert "below about 3·10⁻⁶" in page
