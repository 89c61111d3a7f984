"""P1 to P4 and W1: planted worlds in which each claim holds, fails or cannot be decided."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.claims import Decision
from analysis.claims.comparisons import since_start
from analysis.claims.entries.trade_off import mean_pass_at_k
from analysis.claims.measurements.curves import crossover
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from analysis.evaluation import pass_at_k_exact
from tests.claims.planted import PlantedEvidence, World, as_methods, planted

CLAIMS = all_claims()
RISING = World(accuracy=lambda t: 0.4 + 0.15 * t)
# Some prompts are lost while Pass@1 rises by the others.
SHARPENING = World(accuracy=lambda t: 0.3 + 0.6 * t, spread=lambda t: 0.05, lost=lambda t: 0.4 * t)
KEEPING = World(accuracy=lambda t: 0.3 + 0.24 * t, spread=lambda t: 0.05)
FLAT = World(accuracy=lambda t: 0.4)


def _judged(name: str, seeds: int = 4, **worlds: World) -> Decision:
    judge = CLAIMS[name].judge
    assert judge is not None
    return judge(as_methods(planted({key.replace("_", "-"): world for key, world in worlds.items()}, seeds)))


def test_p1_holds_where_every_k_stays_and_fails_where_one_falls() -> None:
    assert _judged("P1", NSR=RISING).verdict == "holds"
    assert _judged("P1", NSR=FLAT).verdict == "holds"  # non-inferior
    assert _judged("P1", NSR=SHARPENING).verdict == "fails"
    assert _judged("P1", 3, NSR=RISING).verdict == "undecided"


def test_p1_has_the_table_of_pass_at_k_with_its_base() -> None:
    decision = _judged("P1", NSR=RISING, PSR=SHARPENING)
    table = decision.tables["pass_at_k"]
    assert list(table) == ["condition", "method", "k", "value", "low", "high"]
    assert set(table["method"]) == {"base", "NSR", "PSR"}
    rows = zip(table["condition"], table["method"], table["k"], table["value"], strict=True)
    (value,) = (v for c, m, k, v in rows if (c, m, k) == ("your runs, T = 1", "NSR", 1))
    assert value == pytest.approx(0.55, abs=0.01)
    assert "The base is within 0.01 of its ceiling from k = " in decision.reason


def test_p2_needs_both_the_gain_and_the_loss() -> None:
    assert _judged("P2", PSR=SHARPENING).verdict == "holds"
    assert _judged("P2", PSR=RISING).verdict == "fails"  # nothing is lost
    assert _judged("P2", PSR=FLAT).verdict == "fails"  # nothing is gained
    assert _judged("P2", 3, PSR=SHARPENING).verdict == "undecided"


def test_the_crossover_is_where_the_exact_curves_cross() -> None:
    runs = as_methods(planted({"PSR": SHARPENING}, 4))
    found, never = crossover(runs, "PSR")
    assert never == []
    for seed, place in zip(found.seeds, found.values, strict=True):
        evals = runs["PSR"][seed].table("evals")
        rows = evals[(evals["split"] == "test") & (evals["temperature"] == 1.0)]
        before, after = (rows[rows["step"] == step]["p"].to_numpy() for step in (0, 40))
        gains = [float((pass_at_k_exact(after, k) - pass_at_k_exact(before, k)).mean()) for k in range(1, 257)]
        first = next(k for k, gain in enumerate(gains, start=1) if gain < 0)
        assert first - 1 <= 2**place <= first
    decision = _judged("P2", PSR=SHARPENING)
    crossing = decision.effects[2]
    assert crossing.low < crossing.value < crossing.high
    assert math.isnan(crossing.null)
    assert "falls below that of the base at k =" in decision.reason


def test_seeds_that_never_cross_are_counted_and_have_no_interval() -> None:
    decision = _judged("P2", PSR=RISING)
    assert decision.effects[2].reason == "4 of 4 seeds do not cross up to k = 4096"
    assert decision.tables["crossover"]["k"][:4] == [None] * 4


def test_p3_asks_for_a_lead_so_that_a_tie_fails() -> None:
    assert _judged("P3", NSR=KEEPING, PSR=SHARPENING, GRPO=SHARPENING, PPO=SHARPENING).verdict == "holds"
    assert _judged("P3", NSR=KEEPING, PSR=SHARPENING, GRPO=KEEPING, PPO=SHARPENING).verdict == "fails"
    with pytest.raises(UsageError, match="got none of GRPO, PPO"):
        _judged("P3", NSR=KEEPING, PSR=SHARPENING)


def test_p3_over_the_studies_counts_diverged_runs_and_shows_the_papers_leads() -> None:
    runs = planted({"NSR": KEEPING, "PSR": SHARPENING, "GRPO": SHARPENING, "PPO": SHARPENING}, 4)
    decision = CLAIMS["P3"].decide(PlantedEvidence(runs))
    assert decision.verdict == "holds"
    assert len(decision.effects) == 4 * 2 * 3  # studies, temperatures, matchings
    assert decision.tables["paper"]["least_p"] == [0.5, 1.0, 1.0]
    assert CLAIMS["P3"].decide(PlantedEvidence(runs, {"NSR": [1, 5]})).verdict == "fails"
    assert CLAIMS["P3"].decide(PlantedEvidence(runs, {"PSR": [1, 5]})).verdict == "holds"


def test_p4_asks_for_the_mass_of_the_mode() -> None:
    locked = World(mass=lambda t: 0.03 + 0.03 * t)
    unlocked = World(mass=lambda t: 0.03 + 0.6 * t)
    assert _judged("P4", PSR=locked, NSR=unlocked).verdict == "holds"
    assert _judged("P4", PSR=unlocked, NSR=unlocked).verdict == "fails"
    assert _judged("P4", PSR=locked, NSR=locked).verdict == "fails"
    assert _judged("P4", 3, PSR=locked, NSR=unlocked).verdict == "undecided"
    table = _judged("P4", PSR=locked, NSR=unlocked).tables["mode"]
    assert {"base", "PSR", "NSR", "NSR − PSR"} == set(table["method"])


def test_the_mean_over_log_k_is_that_of_pass_at_k() -> None:
    runs = as_methods(planted({"NSR": RISING, "PSR": SHARPENING}, 4))
    found = mean_pass_at_k(runs, "NSR", "PSR", "step")
    by_method = {m: since_start(runs, m, [f"pass@{2**i}" for i in range(9)]) for m in ("NSR", "PSR")}
    gaps = [by_method["NSR"][k].values - by_method["PSR"][k].values for k in by_method["NSR"]]
    starts = [
        (pass_at_k_exact(_start(runs, "NSR", seed), 2**i) - pass_at_k_exact(_start(runs, "PSR", seed), 2**i)).mean()
        for seed in range(4)
        for i in range(9)
    ]
    assert float(found.values.mean()) == pytest.approx(float(np.mean(gaps)) + float(np.mean(starts)), abs=1e-12)


def _start(runs, method: str, seed: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    evals = runs[method][seed].table("evals")
    return evals[(evals["split"] == "test") & (evals["temperature"] == 1.0) & (evals["step"] == 0)]["p"].to_numpy()


def test_w1_needs_a_lead_over_every_method() -> None:
    rest = {"PSR": SHARPENING, "NSR": SHARPENING, "GRPO": SHARPENING, "PPO": SHARPENING}
    assert _judged("W1", W_REINFORCE=KEEPING, **rest).verdict == "holds"
    assert _judged("W1", W_REINFORCE=KEEPING, **{**rest, "NSR": KEEPING}).verdict == "fails"


def test_w1_over_lambda_lets_a_neighbour_tie() -> None:
    from analysis.claims.entries import trade_off

    worlds = {"λ = 0": SHARPENING, "λ = 0.1": KEEPING, "λ = 0.3": KEEPING, "λ = 1": SHARPENING}
    main = planted(
        {"W-REINFORCE": KEEPING, "PSR": SHARPENING, "NSR": SHARPENING, "GRPO": SHARPENING, "PPO": SHARPENING}, 4
    )
    by_study = {study.name: main for study in trade_off.MAIN}
    for study in (trade_off.LAMBDA_ADAMW, trade_off.LAMBDA_SGD):
        by_study[study.name] = planted({name: worlds[name] for name in study.methods}, 4)
    assert CLAIMS["W1"].decide(PlantedEvidence(by_study)).verdict == "holds"
    worlds["λ = 1"] = KEEPING
    by_study[trade_off.LAMBDA_SGD.name] = planted({name: worlds[name] for name in trade_off.LAMBDA_SGD.methods}, 4)
    decision = CLAIMS["W1"].decide(PlantedEvidence(by_study))
    assert decision.verdict == "depends"
    assert "λ under SGD: fails in 3 of 3" in decision.depends_on


def test_the_rate_times_one_plus_lambda_is_held_under_sgd() -> None:
    from analysis.claims.entries.trade_off import LAMBDA_ADAMW, LAMBDA_SGD

    scaled = {
        round((1 + (run.planned.config.objective.lambda_ or 0.0)) * run.planned.config.optimizer.lr, 12)
        for run in LAMBDA_SGD.runs
    }
    assert scaled == {0.15}
    assert {run.planned.config.optimizer.lr for run in LAMBDA_ADAMW.runs} == {1.5e-4}
