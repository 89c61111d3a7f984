"""S2: values of cells from evaluations made by hand, and the verdict in worlds where the cause is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims import Decision, Evidence
from analysis.claims.entries.decomposition import decide_shares
from analysis.claims.fraction import (
    COUNTDOWN,
    FIRST_SEEDS,
    HIGH,
    LOW,
    MIDDLE,
    PLACES,
    RATIO_FACTORS,
    STUDIES,
    Place,
    cell_study,
    cells_of,
)
from analysis.claims.measurements.fraction_effects import (
    EXACT_SETTINGS,
    effect_by_seed,
    exact_shares,
    half_effects,
    p_value,
)
from analysis.claims.measurements.fraction_values import STEP_METRICS, filled, values_of_cell
from analysis.claims.study import planned_runs
from analysis.experiments.many_runs import train_runs
from analysis.factorial.factors import Cell, cell_name
from tests.claims.fake_runs import FakeRun, straight_run

Value = Callable[[Place, Cell], float]


def _methods(psr: FakeRun, nsr: FakeRun) -> dict[str, dict[int, FakeRun]]:
    return {"PSR": {0: psr}, "NSR": {0: nsr}}


def _row(methods: object, metric: str = "entropy_fixed") -> pd.Series:
    table = values_of_cell(methods, "none", gain=0.08, step=4)  # type: ignore[arg-type]
    return table.set_index("metric").loc[metric]


def test_a_cell_is_the_gap_for_the_pass_at_1_gained() -> None:
    # entropy falls by 1 per unit of Pass@1 under PSR and by 3 under NSR; the levels are 0.02, 0.04, 0.06, 0.08 up
    row = _row(_methods(straight_run(0.16, -1.0), straight_run(0.1, -3.0)))
    assert row["levels"] == 4
    assert row["matched"] == pytest.approx(-2 * 0.1)
    assert row["level"] == pytest.approx(-2 * 0.1)  # mean of both, −1 and −3, per 0.1 of Pass@1
    # after four of eight steps PSR gained 0.08 and NSR 0.05
    assert row["steps"] == pytest.approx(-3 * 0.05 + 0.08)
    assert _row(_methods(straight_run(0.16, -1.0), straight_run(0.1, -3.0)), "pass@1")["steps"] == pytest.approx(-0.03)


def test_a_run_that_reaches_some_levels_counts_with_these() -> None:
    row = _row(_methods(straight_run(0.16, -1.0), straight_run(0.045, -3.0)))
    assert row["levels"] == 2
    assert row["matched"] == pytest.approx(-2 * 0.1)


def test_a_run_that_never_gains_has_no_value() -> None:
    row = _row(_methods(straight_run(0.16, -1.0), straight_run(-0.1, -1.0)))
    assert row["levels"] == 0
    assert np.isnan(row["matched"])
    assert np.isfinite(row["steps"])


def test_missing_values_take_the_mean_of_their_cell_where_half_have_it() -> None:
    rows = pd.DataFrame(
        {"cell": ["a"] * 4 + ["b"] * 4, "seed": [0, 1, 2, 3] * 2, "v": [1, 3, np.nan, np.nan, 1, *[np.nan] * 3]}
    )
    found, count = filled(rows, "v")
    assert count == 2
    assert found["v"].tolist()[:4] == [1, 3, 2, 2]
    assert found["v"].isna().sum() == 3


def test_designs_of_the_places() -> None:
    assert [len(cells_of(place)) for place in (*PLACES, COUNTDOWN)] == [24, 24, 24, 8]
    assert sum("form" in cell for cell in cells_of(LOW)) == 8
    names = [study.name for study in STUDIES]
    assert len(set(names)) == len(names) == 80
    both = cell_study(MIDDLE, frozenset({"noise", "drop", "reuse", "optimizer"}))
    for run in both.runs:
        config = run.planned.config
        assert config.rollout.group_size == 4
        assert (config.update.minibatch_size, config.update.rows, config.update.epochs) == (64, "drop", 4)
        assert (config.optimizer.name, config.optimizer.lr) == ("adamw", 2.5e-5)
        assert (config.objective.clip_low, config.objective.form) == (0.2, "ratio")
    off = cell_study(MIDDLE, frozenset()).runs[0].planned.config
    assert (off.update.minibatches, off.update.rows, off.update.constant) == (4, "keep", 7.0 * 256)
    assert (off.objective.clip_low, off.rollout.group_size, off.optimizer.name) == (None, 16, "sgd")
    rates = {run.planned.config.optimizer.lr for study in STUDIES for run in study.runs if "reuse" not in study.name}
    assert len(rates) <= 4  # one for AdamW, and of SGD one for each place, of which two are equal


def _world(value: Value, spread: float = 0.002) -> dict[str, pd.DataFrame]:
    """Values of every cell and seed: `value` for entropy at equal Pass@1 and noise of this spread; others follow it."""
    rng = np.random.default_rng(0)
    found = {}
    for place in (*PLACES, COUNTDOWN):
        rows = []
        for cell in cells_of(place):
            seeds = min(place.seeds, 4) if "form" in cell else place.seeds
            for seed in range(seeds):
                for metric in STEP_METRICS:
                    drawn = value(place, cell) + spread * rng.normal()
                    matched = np.nan if "form" in cell or metric == "pass@1" else drawn
                    levels = 0 if "form" in cell else 4
                    rows.append((cell_name(cell), seed, metric, matched, levels, drawn, matched))
        columns = ["cell", "seed", "metric", "matched", "levels", "steps", "level"]
        found[place.name] = pd.DataFrame(rows, columns=columns)
    return found


EXACT = pd.DataFrame({"factor": ["noise"], "kind": ["Shapley"], "value": [0.1], "metric": ["entropy"]})


def test_one_cause_everywhere_holds() -> None:
    decision = decide_shares(_world(lambda place, cell: -0.05 * ("noise" in cell)), EXACT)
    assert decision.verdict == "holds"
    assert "4 responses a prompt, not 16 (−)" in decision.reason
    first = decision.effects[0]
    assert (first.n, first.condition) == (8, "path, low accuracy, equal Pass@1")
    assert first.low < -0.05 < first.high or abs(first.value + 0.05) < 0.003
    assert len(decision.effects) == 2 * 4 * 4
    pairs = decision.tables["interactions"]
    assert len(pairs["first"]) == 3 * 2 * (6 + 10)
    form = decision.tables["form"]
    assert form["with_a_common_level"][form["form"].index("probability (Eq. 6)")] == 0


def test_no_cause_anywhere_fails() -> None:
    assert decide_shares(_world(lambda place, cell: 0.001), EXACT).verdict == "fails"


def test_a_cause_that_turns_round_depends_on_accuracy() -> None:
    turned = decide_shares(_world(lambda place, cell: (1 if place == HIGH else -1) * 0.05 * ("noise" in cell)), EXACT)
    assert turned.verdict == "depends"
    assert "path, high accuracy: 4 responses a prompt, not 16 (+)" in turned.depends_on
    other = decide_shares(_world(lambda p, cell: 0.05 * (("noise" if p == LOW else "optimizer") in cell)), EXACT)
    assert other.verdict == "depends"


def test_a_wide_spread_is_undecided() -> None:
    decision = decide_shares(_world(lambda place, cell: -0.02 * ("noise" in cell), spread=0.3), EXACT)
    assert decision.verdict == "undecided"
    assert "more seeds at" in decision.missing


def test_a_cell_without_values_leaves_the_verdict_open() -> None:
    values = _world(lambda place, cell: -0.05 * ("noise" in cell))
    rows = values[LOW.name]
    rows.loc[rows["cell"] == "noise+reuse", "matched"] = np.nan
    decision = decide_shares(values, EXACT)
    assert decision.verdict == "undecided"
    counts = decision.tables["missing values"]
    assert counts["without"][0] == LOW.seeds
    read = Decision.from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False)))  # as the ledger keeps it
    assert read.tables["shares"]["adjusted"].count(None) == list(map(str, decision.tables["shares"]["adjusted"])).count(
        "nan"
    )


def test_five_factors_follow_from_the_half_fraction() -> None:
    values = _world(lambda place, cell: 0.1 * ("form" in cell) + 0.04 * ({"noise", "form"} <= cell), spread=0.0)
    rows = values[LOW.name]
    shares, pairs = half_effects(rows[rows["metric"] == "pass@64"], "steps")
    shapley = shares[shares["kind"] == "Shapley"].set_index("factor")["value"]
    assert shapley["form"] == pytest.approx(0.12)
    assert shapley["noise"] == pytest.approx(0.02)
    found = pairs.set_index(["first", "second"])["value"]
    assert found["noise", "form"] == pytest.approx(0.04)
    assert found.drop(index=("noise", "form")).abs().max() < 1e-12


def test_main_effects_are_taken_seed_by_seed() -> None:
    values = _world(lambda place, cell: 0.1 * ("drop" in cell), spread=0.0)[HIGH.name]
    rows = values[values["metric"] == "entropy_fixed"]
    assert effect_by_seed(rows, "matched", "drop") == pytest.approx(dict.fromkeys(range(8), 0.1))
    assert effect_by_seed(rows[rows["cell"] != "none"], "matched", "drop") == {}


def test_the_table_that_x1_chose_from_keeps_its_first_seeds() -> None:
    values = _world(lambda place, cell: 0.05 * ("noise" in cell), spread=0.0)
    for place in PLACES:
        rows = values[place.name]
        rows.loc[rows["seed"] >= FIRST_SEEDS[place.name], "level"] *= -10
    kept = decide_shares(values, EXACT).tables["kept"]
    by_factor = dict(zip(kept["factor"], zip(kept["value"], kept["n"], strict=True), strict=True))
    assert by_factor["noise"] == (pytest.approx(0.05), 16)


def test_p_is_that_of_students_test() -> None:
    from scipy import stats

    values = np.array([0.1, 0.3, 0.2, 0.5])
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval()
    assert p_value(values.mean(), low, high, 4) == pytest.approx(test.pvalue)
    assert np.isnan(p_value(0.1, np.nan, np.nan, 1))


@pytest.mark.slow  # 32 runs of exact policies
def test_exact_policies_differ_by_noise_with_adam_alone() -> None:
    shares = exact_shares(settings=replace(EXACT_SETTINGS, seeds=3, prompts=16))
    rows = shares[shares["metric"] == "entropy"].set_index(["factor", "kind"])["value"]
    for factor in RATIO_FACTORS:
        assert abs(rows[factor.name, "first in"]) < 0.03
    assert rows["noise", "last out"] > 0.05
    assert rows["optimizer", "last out"] > 0.05


@pytest.mark.slow  # trains four runs
def test_cells_are_trained_and_read(tmp_path: Path) -> None:
    small = Place("tiny", "tiny", "tiny", 1, 0.005, 4, 0.1, 4.0)
    frames = []
    for cell in (frozenset[str](), frozenset({"noise", "drop", "reuse", "optimizer"})):
        study = cell_study(small, cell)
        runs = planned_runs([study])
        outcomes = train_runs(list(runs.values()), {run_id: tmp_path / run_id for run_id in runs}, quiet=True)
        assert {outcome.status for outcome in outcomes.values()} == {"complete"}
        methods = Evidence(tmp_path).methods(study)
        frames.append(values_of_cell(methods, cell_name(cell), gain=small.gain, step=4))
    found = pd.concat(frames)
    assert found["steps"].notna().all()
    assert set(found["cell"]) == {"none", "noise+reuse+optimizer+drop"}
