"""The coverage command, its committed result, and that every kind of interval that is printed has its rows there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.common.tables import Cell
from analysis.coverage.__main__ import main
from analysis.coverage.conditions import conditions
from analysis.coverage.measurement import measure
from analysis.evaluation.interval_kinds import KINDS, Kind
from analysis.factorial.findings import _estimate
from analysis.report import summarize
from docs.generators.intervals_page import RESULTS, SHOWN, intervals_page
from tests.report.by_hand import make_experiment

COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_every_kind_has_its_text_its_worlds_and_its_rows() -> None:
    assert list(KINDS) == list(Kind)
    assert {kind for condition in conditions() for kind in condition.rows} == set(Kind)
    assert {row["kind"] for row in COMMITTED["rows"]} == {str(kind) for kind in Kind}


def test_the_committed_result_is_of_todays_worlds() -> None:
    known = {(str(kind), row, c.size) for c in conditions() for kind, rows in c.rows.items() for row in rows}
    assert {(row["kind"], row["world"], row["size"]) for row in COMMITTED["rows"]} == known


# Worlds that count and miss 93 to 97% by more than four standard errors of their draws: all of them are too wide.
MISSES = {
    ("success", "Pass@1, p from Beta(2, 3), mean 0.4", "10 prompts"),
    ("crossing", "line, bases scatter by 0.1 in the log ratio", "4 bases"),
    ("crossing", "curve, bases scatter by 0.1 in the log ratio", "4 bases"),
    *(("proportion", "p = 0.1", f"{n} prompts") for n in (10, 16, 32)),
    *(("proportion", "p = 0.3", f"{n} prompts") for n in (10, 16)),
    *(("proportion", "p = 0.5", f"{n} prompts") for n in (10, 32)),
    *(
        (
            "matched_difference",
            f"effective_solutions at {level} of the range, p from Beta(0.1, 0.3)",
            f"{n} + {n} prompts",
        )
        for level in ("half", "the top")
        for n in (32, 64, 128)
    ),
}


def test_what_is_claimed_holds_in_the_committed_result_but_for_named_worlds() -> None:
    """93 to 97%, less or more four standard errors of so many draws (a false alarm in 100 for 300 rows)."""
    misses = set()
    for row in COMMITTED["rows"]:
        if row["claimed"] and row["printed"] >= SHOWN * row["draws"]:
            share, error = row["covered"] / row["printed"], math.sqrt(0.05 * 0.95 / row["printed"])
            if not 0.93 - 4 * error <= share <= 0.97 + 4 * error:
                misses.add((row["kind"], row["world"], row["size"]))
    assert misses == MISSES


def test_no_world_is_covered_too_seldom() -> None:
    """Whether it counts towards the first table or not: at least 93% less two standard errors of its draws."""
    short = set()
    for row in COMMITTED["rows"]:
        if row["printed"] >= SHOWN * row["draws"]:
            share, error = row["covered"] / row["printed"], math.sqrt(0.05 * 0.95 / row["printed"])
            if share + 2 * error < 0.93:
                short.add((row["kind"], row["world"], row["size"]))
    assert short == set()


def test_the_page_has_every_kind() -> None:
    page = intervals_page()
    for kind, text in KINDS.items():
        assert f"- In JSON: `{kind}`." in page
        assert text.method in page


@pytest.mark.slow
def test_the_cells_of_a_report_say_which_kind_they_are(tmp_path: Path) -> None:
    kinds = set()
    for seeds in ((0,), (0, 1, 2)):
        for table in summarize(make_experiment(tmp_path / str(len(seeds)), seeds=seeds)).tables:
            for cell in (cell for row in table.rows for cell in row if isinstance(cell, Cell)):
                if math.isfinite(cell.low):
                    kinds.add(Kind(cell.kind))
                elif cell.kind:
                    assert cell.reason or math.isnan(cell.value)
    assert Kind.SEED_MEAN in kinds


def test_the_effects_of_a_factorial_are_means_over_seeds() -> None:
    assert _estimate(pd.Series({"value": 0.1, "low": 0.0, "high": 0.2})).kind == Kind.SEED_MEAN


def test_counts_depend_on_the_seed_alone() -> None:
    first = measure([Kind.PROPORTION], replicates=20, seed=0)
    assert first == measure([Kind.PROPORTION], replicates=20, seed=0)
    assert first != measure([Kind.PROPORTION], replicates=20, seed=1)
    assert all(row["printed"] == row["covered"] + row["below"] + row["above"] for row in first)


@pytest.mark.slow  # processes are started
def test_counts_do_not_depend_on_the_workers() -> None:
    first = measure([Kind.PROPORTION], replicates=20, seed=0)
    assert first == measure([Kind.PROPORTION], replicates=20, seed=0, workers=2)


@pytest.mark.parametrize("kind", [Kind.SEED_MEAN, Kind.PROMPT_MEAN, Kind.PROMPT_RATIO, Kind.REPLICATE_MEAN])
def test_coverage_of_the_fast_kinds(kind: Kind) -> None:
    """200 draws of each claimed world, fixed before looking, pooled over a kind's worlds: 93 to 97% less or more 3.5
    standard errors of a single world, since worlds differ (a false alarm in 4,000 a kind)."""
    rows = [row for row in measure([kind], replicates=200, seed=1) if row["claimed"]]
    printed = sum(row["printed"] for row in rows)
    share = sum(row["covered"] for row in rows) / printed
    assert abs(share - 0.95) < 0.02 + 3.5 * math.sqrt(0.05 * 0.95 / printed)


def test_the_command_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "coverage.json"
    line = ["--kind", "proportion", "--replicates", "10", "--quiet", "--results", str(path)]
    assert main(line) == 0
    assert "coverage of the intervals" in capsys.readouterr().out
    stored = json.loads(path.read_text())
    assert (stored["seed"], stored["replicates"], stored["level"]) == (0, 10, 0.95)
    assert stored["command"].startswith("python -m analysis.coverage --kind proportion")
    assert "scipy" in stored["versions"]
    assert np.sum([row["draws"] for row in stored["rows"]]) == 10 * len(stored["rows"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--kind", "jackknife"], "--kind: expected one of seed_mean"),
        (["--replicates", "-1"], "--replicates: expected at least 1, got -1"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["--results", "x.txt"], "expected a file ending in .json"),
    ],
)
def test_bad_requests(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert message in capsys.readouterr().err
