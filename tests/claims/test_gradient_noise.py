"""N1: the noise of the bases foretells the sign of the gap, or does not, in worlds made by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from analysis.claims.entries.gradient_noise import decide_noise, judge, signed
from analysis.errors import UsageError
from tests.claims.fake_runs import FakeRun, around, noise_rows, straight_run

ACCURACIES = {"path-p20": 0.2, "path": 0.35, "path-p60": 0.6, "path-p75": 0.75, "path-p85": 0.88, "path-p95": 0.96}
CONDITIONS = {"low": ("path", 8), "middle": ("path-p60", 8), "high": ("path-p85", 4)}
Gaps = dict[str, tuple[str, Mapping[int, float]]]


def _noise(scale: float = 1.0) -> pd.DataFrame:
    """The ratio falls as (1 − p)/p, times 4: it is 1 at p = 0.8. Eight seeds of each base."""
    ratios = {
        (base, seed): ("path", p, scale * 4 * (1 - p) / p)
        for base, accuracy in ACCURACIES.items()
        for seed in range(8)
        for p in [accuracy + 0.002 * seed]
    }
    return noise_rows(ratios)


def _gaps(size: float, turned: str = "", spread: float = 0.002) -> Gaps:
    """Gaps of this size in the foretold direction, in one condition against it."""
    found = {}
    for i, (name, (base, seeds)) in enumerate(CONDITIONS.items()):
        mean = size * (1 if base == "path-p85" else -1) * (-1 if name == turned else 1)
        found[name] = base, dict(enumerate(around(mean, seeds, spread, i)))
    return found


def test_a_gap_has_the_foretold_sign_where_the_noisier_method_keeps_less() -> None:
    assert signed({0: -0.03, 1: 0.02, 5: 1.0}, {0: 19.0, 1: 0.5}).tolist() == [0.03, 0.02]


def test_a_foretold_gap_holds() -> None:
    decision = decide_noise(
        _noise(), _gaps(0.03), {"more noise": ("path", dict(enumerate(around(-0.02, 8, 0.002, 9))))}
    )
    assert decision.verdict == "holds"
    crossing = decision.effects[0]
    assert crossing.condition == "path"
    assert crossing.low <= 0.8 <= crossing.high
    assert crossing.value == pytest.approx(0.8, abs=0.001)
    assert "in 20 of 20 pairs" in decision.reason
    assert [effect.value for effect in decision.effects[1:]] == pytest.approx([0.03, 0.03, 0.03, 0.02])
    assert len(decision.tables["gaps"]["gap"]) == 20


def test_the_opposite_sign_everywhere_fails() -> None:
    assert decide_noise(_noise(), _gaps(-0.03), {}).verdict == "fails"


def test_without_a_crossing_the_claim_fails() -> None:
    decision = decide_noise(_noise(scale=400), {"low": _gaps(0.03)["low"]}, {})
    assert decision.verdict == "fails"
    assert "One sign is noisier at every accuracy" in decision.reason


def test_one_condition_against_the_prediction_depends() -> None:
    decision = decide_noise(_noise(), _gaps(0.03, turned="high"), {})
    assert decision.verdict == "depends"
    assert decision.depends_on == "holds: sign (low), sign (middle); fails: sign (high)"


def test_noise_between_seeds_is_undecided_and_so_is_what_holm_takes_back() -> None:
    assert decide_noise(_noise(), _gaps(0.01, spread=0.1), {}).verdict == "undecided"
    # an interval that just excludes 0 alone, among many that do not
    just = dict(enumerate(around(0.0, 8, 1.0, 3)))
    scale = float(np.std(list(just.values()), ddof=1) / np.sqrt(8))
    barely = {seed: value - 2.6 * scale for seed, value in just.items()}
    many = {f"condition {i}": ("path", dict(enumerate(around(0.0, 8, 1.0, i)))) for i in range(9)}
    decision = decide_noise(_noise(), {"barely": ("path", barely), **many}, {})
    assert decision.verdict == "undecided"
    assert "Holm's p over 10 comparisons" in decision.missing


def test_pairs_without_a_common_range_are_left_out() -> None:
    decision = decide_noise(_noise(), {"low": ("path", {0: -0.02})}, {})
    assert decision.verdict == "undecided"
    assert "fewer than 4 seeds (1)" in decision.missing


def test_runs_of_a_user_are_judged_by_their_own_noise() -> None:
    def with_noise(run: FakeRun, ratio: float) -> FakeRun:
        rows = [{"step": step, "estimator": "NSR", "noise_ratio": ratio / (1 + step)} for step in (0, 8)]
        return FakeRun({**run.tables, "noise": pd.DataFrame(rows)})

    slopes = (-2.9, -3.0, -3.1, -3.0)
    psr = {seed: with_noise(straight_run(0.1, -1.0), 9.0) for seed in range(4)}
    nsr = {seed: straight_run(0.1, slope) for seed, slope in enumerate(slopes)}
    assert judge({"PSR": psr, "NSR": nsr}).verdict == "holds"  # type: ignore[dict-item]
    quiet = {seed: with_noise(straight_run(0.1, -1.0), 0.2) for seed in range(4)}
    assert judge({"PSR": quiet, "NSR": nsr}).verdict == "fails"  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="expected a run of NSR"):
        judge({"PSR": psr})  # type: ignore[dict-item]
