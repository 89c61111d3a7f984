"""Conjunctions of several parts, runs that diverged, and tables over conditions."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.claims import Decision
from analysis.claims.comparisons import Comparison
from analysis.claims.conjunctions import Part, SeedValues, all_of, counting_diverged, judged, temperatures, together
from analysis.errors import UsageError
from tests.claims.planted import World, as_methods, planted


def _values(mean: float, spread: float = 0.01, seeds: int = 4) -> SeedValues:
    around = np.array([-1.0, 1.0] * seeds)[:seeds]
    return SeedValues("gain", "at the end", tuple(range(seeds)), mean + spread * around, {})


def test_all_parts_must_hold_and_one_may_refute() -> None:
    high, low, open_ = (Part("above 0", _values(mean), 0.0) for mean in (0.1, -0.1, 0.005))
    assert all_of([high, high]).verdict == "holds"
    assert all_of([high, low]).verdict == "fails"
    assert all_of([high, open_]).verdict == "undecided"
    assert "narrower" in all_of([high, open_]).missing
    assert all_of([high, open_]).tables["parts"]["verdict"] == ["holds", "undecided"]


def test_below_is_the_mirror_of_above() -> None:
    for mean, verdict in ((-0.1, "holds"), (0.1, "fails"), (0.005, "undecided")):
        assert all_of([Part("below 0", _values(mean), 0.0, above=False)]).verdict == verdict


def test_many_parts_refute_at_the_simultaneous_level_only() -> None:
    """Four seeds, t of 3 degrees: |mean| = 3.5 standard errors lies beyond 3.18 (95%) and within 5.84 (99%)."""
    error = 0.01 * 2 / np.sqrt(3) / 2  # of ±0.01 over four seeds: sd = 0.02/√3, over √4
    part = Part("above 0", _values(-3.5 * error), 0.0)
    assert all_of([part]).verdict == "fails"
    assert all_of([part] * 5).verdict == "undecided"
    assert all_of([Part("below 0", _values(-3.5 * error), 0.0, above=False)] * 5).verdict == "holds"


def test_crossed_values_have_both_intervals() -> None:
    values = 0.1 + 0.01 * np.random.default_rng(0).normal(size=(4, 20))
    gap = Comparison("pass@1", "Pass@1: NSR − PSR", "equal steps", (0, 1, 2, 3), {}, values)
    decision = all_of([Part("NSR above PSR", gap, 0.02), Part("not by much", gap, 0.5, above=False)], "path")
    assert decision.verdict == "holds"
    assert decision.effects[0].kind == "seeds_and_prompts"
    assert decision.effects[0].condition == "path"
    assert all_of([Part("NSR above PSR", gap, 0.2)]).verdict == "fails"


def test_few_seeds_decide_nothing() -> None:
    decision = all_of([Part("above 0", _values(1.0, seeds=3), 0.0)])
    assert decision.verdict == "undecided"
    assert "fewer than 4 seeds (3)" in decision.missing


def test_diverged_runs_count_against_a_method() -> None:
    yes, no = Decision("holds", "a"), Decision("fails", "b")
    assert counting_diverged(yes, "NSR", 0, 8) is yes
    assert counting_diverged(yes, "NSR", 1, 8).verdict == "undecided"
    assert counting_diverged(no, "NSR", 1, 8).verdict == "fails"
    assert counting_diverged(yes, "NSR", 2, 8).verdict == "fails"
    assert counting_diverged(yes, "NSR", 2, 8).reason == "2 of 8 runs of NSR diverged. a"


def test_tables_of_conditions_are_joined() -> None:
    parts = {
        name: Decision("holds", f"because of {name}.", tables={"curve": {"k": [1, 2]}}) for name in ("A", "B", "C", "D")
    }
    joined = together(parts)
    assert joined.tables["curve"] == {"condition": ["A", "A", "B", "B", "C", "C", "D", "D"], "k": [1, 2] * 4}
    assert joined.reason == "Holds in 4 of 4 conditions, such as A: because of A."
    parts["D"] = Decision("holds", "d", tables={"curve": {"x": [1]}})
    with pytest.raises(ValueError, match="other columns in D"):
        together(parts)


def test_runs_of_users_are_refused_in_words() -> None:
    runs = as_methods(planted({"PSR": World()}, temperatures=(0.8,)))
    with pytest.raises(UsageError, match="expected finished runs labelled PSR, NSR, got none of NSR"):
        judged(runs, lambda methods, name: {}, "PSR", "NSR")
    with pytest.raises(UsageError, match=r"expected 1 or 0\.6 in all runs, without truncation, got 0\.8"):
        temperatures(runs, (1.0, 0.6))
