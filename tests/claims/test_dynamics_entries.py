"""D1 to D3 and L1: planted worlds in which each claim holds, fails or cannot be decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.claims import Decision
from analysis.claims.measurements.curves import at_places, rollout_ratio
from analysis.claims.measurements.peaks import after_peak, peak_steps
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.planted import PlantedEvidence, World, as_methods, planted

CLAIMS = all_claims()
LONG = (0, 10, 20, 30, 40, 60, 80, 100, 120)


def _judged(name: str, seeds: int = 4, *, steps: tuple[int, ...] | None = None, **worlds: World) -> Decision:
    judge = CLAIMS[name].judge
    assert judge is not None
    named = {key.replace("_", "-"): world for key, world in worlds.items()}
    return judge(as_methods(planted(named, seeds, **({"steps": steps} if steps else {}))))


def _entropy(end: float) -> World:
    return World(entropy=lambda t: 1.0 + (end - 1.0) * t)


def test_d1_holds_by_its_order_and_its_base() -> None:
    rest = {"PPO": _entropy(0.7), "GRPO": _entropy(0.6)}
    assert _judged("D1", NSR=_entropy(0.97), PSR=_entropy(0.4), **rest).verdict == "holds"
    assert _judged("D1", NSR=_entropy(0.4), PSR=_entropy(0.97), **rest).verdict != "holds"
    # The order holds, NSR is not near its base.
    depends = _judged("D1", NSR=_entropy(0.8), PSR=_entropy(0.4), **rest)
    assert depends.verdict == "depends"
    assert "NSR and base: fails in " in depends.depends_on
    assert _judged("D1", 3, NSR=_entropy(0.97), PSR=_entropy(0.4), **rest).verdict == "undecided"


def test_d1_asks_on_fixed_prefixes_and_on_own_responses() -> None:
    decision = _judged("D1", NSR=_entropy(0.97), PSR=_entropy(0.4))
    questions = {effect.condition.split(", ")[1] for effect in decision.effects}
    assert questions == {"entropy on fixed prefixes", "entropy on own responses"}


def test_d2_compares_the_ends_of_training() -> None:
    def world(end: float) -> World:
        return World(accuracy=lambda t: 0.4 + 0.2 * t * end, ratio=lambda t: 0.4 + (end - 0.4) * t)

    solving = replace(world(0.9), accuracy=lambda t: 0.4 + 0.35 * t, spread=lambda t: 0.2 + 0.2 * t)
    others = {"NSR": world(0.5), "GRPO": world(0.6)}
    by_axis = _judged("D2", PSR=world(0.9), **others)
    at_equal = [row for row, name in enumerate(by_axis.tables["parts"]["condition"]) if name.endswith("Pass@1")]
    assert {by_axis.tables["parts"]["verdict"][row] for row in range(at_equal[0])} == {"holds"}
    assert _judged("D2", PSR=solving, **others).tables["rollouts"]["method"][0] == "PSR"
    assert _judged("D2", PSR=world(0.5), **{**others, "NSR": world(0.9)}).verdict == "fails"


def test_ratios_at_equal_updates_take_the_methods_own_number_of_updates() -> None:
    """A line 0 to 1 over 40 steps: at equal steps equal, at equal updates that with twice the updates is behind."""
    line = World(ratio=lambda t: t)
    runs = as_methods(planted({"PSR": replace(line, updates=4), "NSR": replace(line, updates=2)}, 4))
    at_steps = rollout_ratio(runs, "PSR", "NSR", "correct_ratio", "step")
    at_updates = rollout_ratio(runs, "PSR", "NSR", "correct_ratio", "update")
    assert np.abs(at_steps.values).max() < 1e-12
    # Common range 0 to 78 updates, last quarter around 68.25: step 17.06 of PSR, 34.1 of NSR.
    assert at_updates.values == pytest.approx(np.full(4, (68.25 / 4 - 68.25 / 2) / 40), abs=0.003)


def test_d3_needs_a_fast_start_and_a_stall() -> None:
    fast = World(greedy=lambda t: 0.3 + 0.4 * min(1.0, 4 * t))
    steady = World(greedy=lambda t: 0.3 + 0.4 * t)
    others = {"NSR": steady, "GRPO": steady}
    assert _judged("D3", PSR=fast, **others).verdict == "holds"
    assert _judged("D3", PSR=steady, NSR=fast, GRPO=fast).verdict == "fails"
    assert _judged("D3", PSR=World(greedy=lambda t: 0.3 + 0.9 * t * (t > 0.3)), **others).verdict == "fails"


def test_values_between_evaluations_are_interpolated() -> None:
    (run,) = planted({"PSR": World()}, 1)["PSR"].values()
    left, middle, right = at_places(run, "pass@1", (10, 15, 20), "step")  # type: ignore[arg-type]
    np.testing.assert_allclose(middle, (left + right) / 2)
    with pytest.raises(UsageError, match="expected places between 0 and 40"):
        at_places(run, "pass@1", (41,), "step")  # type: ignore[arg-type]


def _hump(peak: float, fall: float) -> World:
    """Rises by 0.2 to `peak` (a fraction of the run), then changes by −`fall` in as long a time."""
    return World(accuracy=lambda t: 0.4 + 0.2 * min(t / peak, 1.0) - fall * max(0.0, t - peak) / peak)


def test_l1_needs_a_fall_of_nsr_and_none_of_w_reinforce() -> None:
    falling, staying = _hump(1 / 4, 0.1), _hump(1 / 4, 0.0)
    assert _judged("L1", steps=LONG, NSR=falling, W_REINFORCE=staying).verdict == "holds"
    assert _judged("L1", steps=LONG, NSR=falling, W_REINFORCE=falling).verdict == "fails"
    assert _judged("L1", steps=LONG, NSR=_hump(1 / 4, 1e-3), W_REINFORCE=staying).verdict == "fails"


def test_l1_waits_for_three_times_the_peak() -> None:
    decision = _judged("L1", steps=LONG, NSR=_hump(1.0, 0.0), W_REINFORCE=_hump(1 / 4, 0.0))
    assert decision.verdict == "undecided"
    assert decision.missing == "your runs: runs of 360 steps or more"


def test_l1_counts_diverged_runs() -> None:
    runs = planted({"NSR": _hump(1 / 4, 0.0), "W-REINFORCE": _hump(1 / 4, 0.0)}, 4, steps=LONG)
    assert CLAIMS["L1"].decide(PlantedEvidence(runs)).verdict == "fails"
    assert CLAIMS["L1"].decide(PlantedEvidence(runs, {"NSR": [4, 5]})).verdict == "holds"
    assert CLAIMS["L1"].decide(PlantedEvidence(runs, {"NSR": [4, 5], "W-REINFORCE": [4]})).verdict == "fails"


def test_the_peak_is_found_on_other_seeds() -> None:
    early, late = _hump(1 / 4, 0.1), _hump(1 / 2, 0.1)
    runs = planted({"NSR": early}, 3, steps=LONG)["NSR"]
    runs[0] = replace(runs[0], world=late, tables={})
    assert peak_steps(runs)[0] == 30  # of seeds 1 and 2
    found = after_peak(as_methods({"NSR": runs}), "NSR", "pass@1")
    assert found.ends[0] == 90
    assert found.change.values[0].mean() == pytest.approx(0.1 - 0.05, abs=0.01)  # 0.5 at 30; 0.55 at 90
    with pytest.raises(UsageError, match="at least 2 seeds, got 1"):
        peak_steps({0: runs[0]})  # type: ignore[dict-item]
