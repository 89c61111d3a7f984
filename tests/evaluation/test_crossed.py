"""The mean over seeds and prompts: its variance against simulation, its tests against scipy, Holm against a table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.errors import UsageError
from analysis.evaluation.crossed import CrossedMean, crossed_mean, holm
from analysis.evaluation.interval_kinds import Kind


def test_one_prompt_is_students_t_over_seeds() -> None:
    values = np.random.default_rng(0).normal(size=8)
    found = crossed_mean(values[:, None])
    reference = stats.ttest_1samp(values, 0.1)
    low, high = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    assert found.p_value(0.1) == pytest.approx(reference.pvalue, rel=1e-12)
    assert (found.interval().low, found.interval().high) == pytest.approx((low, high), rel=1e-12)
    assert found.interval().kind == Kind.SEEDS_AND_PROMPTS


def test_the_error_is_that_of_repeated_draws() -> None:
    """2000 tables of 8 seeds and 32 prompts: the mean of the squared errors is the variance of the means, within 8%
    (3.5 standard errors of a variance from 2000 draws, about √(2/2000) each on two sides)."""
    rng = np.random.default_rng(1)
    means, squares = [], []
    for _ in range(2000):
        table = 0.3 * rng.normal(size=(8, 1)) + rng.normal(size=32) + rng.normal(size=(8, 32))
        found = crossed_mean(table)
        means.append(found.estimate)
        squares.append(found.error**2)
    truth = 0.3**2 / 8 + 1 / 32 + 1 / (8 * 32)
    assert np.var(means) == pytest.approx(truth, rel=0.11)
    assert np.mean(squares) == pytest.approx(truth, rel=0.08)


def test_it_is_never_narrower_than_over_seeds_alone() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        table = rng.normal(size=(4, 16))
        alone = crossed_mean(table.mean(1, keepdims=True))
        found = crossed_mean(table)
        assert found.error >= alone.error * (1 - 1e-12)


def test_equivalence_is_the_greater_of_two_one_sided_tests() -> None:
    found = CrossedMean(0.02, 0.01, 7.0, 8, 64)
    below = stats.t.sf((0.02 + 0.05) / 0.01, 7)
    above = stats.t.cdf((0.02 - 0.05) / 0.01, 7)
    assert found.equivalence_p(0.05) == pytest.approx(max(below, above), rel=1e-12)
    assert CrossedMean(0.06, 0.01, 7.0, 8, 64).equivalence_p(0.05) > 0.5
    assert CrossedMean(0.0, 0.0, 7.0, 8, 64).equivalence_p(0.05) == 0.0


def test_how_many_seeds_would_do() -> None:
    found = CrossedMean(0.1, 0.1, 3.0, 4, 64)
    needed = found.seeds_for(0.0)
    assert needed is not None
    assert stats.t.ppf(0.975, needed - 1) * 0.1 * math.sqrt(4 / needed) < 0.1
    assert CrossedMean(0.1, 0.1, 3.0, 4, 64).seeds_for(0.1) is None


def test_few_seeds_have_no_interval() -> None:
    found = crossed_mean(np.ones((3, 4)) + np.arange(4)).interval()
    assert math.isnan(found.low)
    assert "seeds" in found.reason


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0, math.nan], [0.0, 1.0]], [1.0, 2.0]])
def test_bad_tables_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(UsageError, match="values: expected finite numbers"):
        crossed_mean(values)


def test_holm_multiplies_by_what_is_left() -> None:
    """By hand: 4·0.005, 3·0.011, then 2·0.02 and the last, each at least the one before."""
    assert holm([0.02, 0.005, 0.03, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
