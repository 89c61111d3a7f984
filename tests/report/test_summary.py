"""The tables: which numbers stand where, and what is said about runs that cannot be compared."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
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
    return {row["method"]: row for row in found["rows"]}


def test_base_and_methods_at_the_last_step(summary: Summary) -> None:
    rows = table(summary, "at equal steps")
    assert list(rows) == ["base", "PSR", "NSR", "NSR − PSR"]
    p = np.array([success("PSR", STEPS, i, 1.0) for i in range(6)])
    assert rows["PSR"]["pass_at_8"]["value"] == pytest.approx(pass_at_k_exact(p, 8).mean())
    cold = np.array([success("NSR", STEPS, i, 0.6) for i in range(6)])
    assert rows["NSR"]["pass_at_8_at_temperature_0_6"]["value"] == pytest.approx(pass_at_k_exact(cold, 8).mean())
    assert rows["base"]["pass_at_1"]["value"] == pytest.approx(np.mean([success("PSR", 0, i, 1.0) for i in range(6)]))
    assert rows["PSR"]["entropy_nats"]["value"] == pytest.approx(0.8)
    assert rows["NSR"]["effective_solutions"]["value"] == pytest.approx(8.0)
    assert rows["NSR"]["correct_rollouts"]["value"] == pytest.approx((0.625 + 0.75) / 2)
    assert rows["base"]["correct_rollouts"]["value"] == pytest.approx(0.625)
    assert (rows["PSR"]["updates"]["value"], rows["base"]["updates"]["value"]) == (4, 0)


def test_matched_pass_at_1_compares_at_equal_distance(summary: Summary) -> None:
    rows = table(summary, "at equal Pass@1 = 0.425")  # what NSR, the slower one, reached
    assert rows["NSR"]["step"]["value"] == pytest.approx(2.0)
    assert rows["PSR"]["step"]["value"] == pytest.approx(1.0)
    assert rows["PSR"]["pass_at_1"]["value"] == pytest.approx(rows["NSR"]["pass_at_1"]["value"])
    assert rows["PSR"]["entropy_nats"]["value"] == pytest.approx(0.9)
    assert rows["NSR"]["entropy_nats"]["value"] == pytest.approx(0.8)


def test_every_level_is_shown(summary: Summary) -> None:
    rows = table(summary, "entropy and effective solutions")
    levels = [f"entropy_nats_at_level_{i}" for i in (1, 2, 3, 4)]
    assert [name for name in rows["PSR"] if name.startswith("entropy")] == levels
    assert rows["PSR"][levels[0]]["value"] > rows["PSR"][levels[-1]]["value"]
    assert rows["NSR − PSR"][levels[-1]]["value"] == pytest.approx(-0.1)


def test_differences_are_paired(summary: Summary) -> None:
    """Every prompt gains the same, so the difference has no interval to speak of, whatever the spread over prompts."""
    paired = table(summary, "at equal steps")["NSR − PSR"]
    assert paired["pass_at_1"]["value"] == pytest.approx(-0.1)
    assert paired["entropy_nats"]["value"] == pytest.approx(0.0)
    assert paired["effective_solutions"]["value"] == pytest.approx(2.0)


@pytest.mark.slow
def test_the_verdict_says_both_comparisons(tmp_path: Path) -> None:
    sentence, _ = summarize(make_experiment(tmp_path / "e")).verdict
    assert sentence == (
        "At step 2 NSR and PSR have the same entropy (NSR − PSR: 0.000 nats); at Pass@1 = 0.425 it "
        "has 0.100 nats less, and 8.0 against 8.0 effective solutions. One seed: the intervals are over prompts and "
        "say nothing about other seeds."
    )


def test_one_method_is_compared_with_its_start(tmp_path: Path) -> None:
    summary = summarize(make_experiment(tmp_path / "e", labels=("PSR",)))
    assert [one.key for one in summary.tables] == ["matched_steps", "law", "first_order", "times"]
    assert summary.verdict[:1] == (
        "From step 0 to step 2 PSR takes Pass@1 from 0.325 to 0.525 and entropy from 1.000 to 0.800 nats.",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: -0.25, "Collapsed (Pass@1 ended below half of where it started): NSR (0.500 to 0.000). A smaller"),
        (lambda i: -0.08 - 0.01 * (i % 2), "Worse (Pass@1 fell by more than its 95% interval): NSR (0.500 to"),
        (lambda i: 0.1 - 0.2 * (i % 2), "Stalled (the 95% interval of the change of Pass@1 holds zero): NSR (0.500 to"),
        (lambda i: 0.08 + 0.01 * (i % 2), "Healthy (Pass@1 rose by more than its 95% interval): NSR (0.500 to"),
    ],
)
def test_what_became_of_a_policy_is_said(
    change: Callable[[int], float], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.report.by_hand.success", lambda label, step, i, t: 0.5 + change(i) * step)
    summary = summarize(make_experiment(tmp_path / "e", labels=("NSR",)))
    assert summary.verdict[-1].startswith(said)


def test_a_summary_comes_back_from_its_json(summary: Summary) -> None:
    again = Summary.from_json(json.loads(json.dumps(summary.to_json())))
    assert again.to_markdown() == summary.to_markdown()


def test_predictions_are_compared_and_never_mixed(summary: Summary) -> None:
    rows = table(summary, "the law of single tokens")
    assert set(rows) == {"PSR, rewarded", "NSR, unrewarded"}
    assert rows["NSR, unrewarded"]["log_prob_same_sign"]["value"] == pytest.approx(7 / 8)
    assert rows["NSR, unrewarded"]["contexts"]["value"] == 8


def test_where_the_time_went(summary: Summary) -> None:
    rows = table(summary, "where the time went")
    assert list(rows["PSR"])[1:] == [
        *("update", "evaluate", "rollout", "total", "rollout_tokens_per_second", "ms_per_update")
    ]
    found = {name: cell["value"] for name, cell in rows["NSR"].items() if name != "method"}
    # two steps of 2 + 1 + 0.5 s, 100 tokens a step in 0.5 s, two updates in 2 s
    rates = {"rollout_tokens_per_second": 200, "ms_per_update": 1000}
    assert found == {"update": 4, "evaluate": 2, "rollout": 1, "total": 7} | rates


def test_a_task_with_modes_shows_them(summary: Summary, tmp_path: Path) -> None:
    rows = table(summarize(make_experiment(tmp_path / "e", modes=True)), "at equal steps")
    assert rows["base"]["mode_mass"]["value"] == pytest.approx(0.1)
    assert rows["PSR"]["mode_mass"]["value"] == pytest.approx(0.3)
    assert rows["PSR"]["mode_p"]["value"] == pytest.approx(0.8)
    p = np.mean([success("PSR", STEPS, i, 1.0) for i in range(6)])
    assert rows["PSR"]["outside_p"]["value"] == pytest.approx((p - 0.3 * 0.8) / 0.7)
    assert "mode_mass" not in table(summary, "at equal steps")["PSR"]


def test_the_first_order_early_and_late(summary: Summary) -> None:
    rows = table(summary, "what the first order leaves")
    assert set(rows) == {f"{label}, {kind}" for label in ("PSR", "NSR") for kind in ("own batch", "held out")}
    for name, cell in rows["PSR, own batch"].items():
        if name != "method":  # the JVP is the whole change here, up to the rounding of the records
            assert cell["value"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.slow
def test_several_seeds_give_intervals_over_seeds(three_seeds: Experiment) -> None:
    summary = summarize(three_seeds)
    assert summary.seeds == 3
    cell = table(summary, "at equal steps")["PSR"]["pass_at_1"]
    assert cell["low"] == pytest.approx(cell["high"])  # the seeds are equal here
    assert "over 3 seeds" in summary.to_json()["tables"][0]["note"]


def test_one_seed_says_so(summary: Summary) -> None:
    assert "over prompts (one seed)" in summary.to_markdown()


def test_a_diverged_run_is_named_and_left_out(tmp_path: Path) -> None:
    summary = summarize(make_experiment(tmp_path / "e", statuses={"NSR": "diverged"}))
    assert list(table(summary, "at equal steps")) == ["base", "PSR"]
    assert any("NSR (seed 0) is diverged" in note for note in summary.notes)


def test_a_method_that_never_rises_is_shown_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.report.by_hand.success", lambda label, step, i, t: 0.3 + (0.1 if label == "PSR" else -0.05) * step
    )
    rows = table(summarize(make_experiment(tmp_path / "e")), "at equal Pass@1")
    assert rows["NSR"]["step"] == "never"
    assert rows["PSR"]["pass_at_1"]["value"] == pytest.approx(0.5)


def test_without_a_common_level_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.report.by_hand.success", lambda label, step, i, t: 0.3 - 0.05 * step)
    summary = summarize(make_experiment(tmp_path / "e"))
    assert [one.title for one in summary.tables if "Pass@1" in one.title] == []
    assert any(note.startswith("No table at equal Pass@1") for note in summary.notes)


def test_nothing_evaluated_yet(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    write_experiment(folder, name="empty", recipe={}, hash="0" * 64, runs=[], versions={})
    with pytest.raises(UsageError, match="nothing is committed"):
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
