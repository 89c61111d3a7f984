"""Intervals against closed forms, and their coverage at a sample size fixed beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.evaluation import Interval, interval
from analysis.evaluation.intervals import bootstrap_weights


def test_t_against_a_table():
    # five seeds: t(0.975, 4) = 2.776445, printed in every table
    values = [0.2, 0.5, 0.3, 0.9, 0.6]
    half = 2.776445 * np.std(values, ddof=1) / math.sqrt(5)
    found = interval(values, over="seeds")
    assert found.estimate == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-6)


def test_wilson_against_its_defining_equation():
    """Both ends solve (p̂ − p)² = z² p(1 − p)/n."""
    for successes, n in ((0, 12), (3, 12), (64, 64), (40, 100)):
        found = interval([1] * successes + [0] * (n - successes), method="wilson", level=0.9)
        share, z = successes / n, 1.6448536269514722
        for end in (found.low, found.high):
            assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)
        assert 0 <= found.low <= found.estimate == share <= found.high <= 1


def test_bootstrap_is_the_percentile_interval_of_resampled_means():
    values = np.random.default_rng(0).gamma(0.5, size=64)
    found = interval(values, generator=np.random.default_rng(3))
    rng = np.random.default_rng(11)
    naive = np.quantile([rng.choice(values, 64).mean() for _ in range(20_000)], [0.025, 0.975])
    assert found.estimate == pytest.approx(values.mean())
    # quantiles of 2000 resamples: standard error about 5% of the width each; 4 of them
    width = naive[1] - naive[0]
    assert abs(found.low - naive[0]) < 0.1 * width
    assert abs(found.high - naive[1]) < 0.1 * width
    assert interval(values, generator=3) == interval(values, generator=3) != interval(values, generator=4)


def test_weights_are_shares_of_resamples():
    weights = bootstrap_weights(7, 0, 50)
    assert weights.shape == (50, 7)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights * 7 == pytest.approx(np.round(weights * 7))


@pytest.mark.parametrize(
    ("draw", "truth", "arguments", "least"),
    [
        (lambda rng: rng.normal(size=5), 0.0, {"over": "seeds"}, 0.95),
        (lambda rng: rng.beta(2, 3, size=64), 0.4, {}, 0.925),  # percentile bootstrap at n = 64: a little under
        (lambda rng: rng.random(40) < 0.1, 0.1, {"method": "wilson"}, 0.94),  # discrete: between 94 and 98%
    ],
)
def test_coverage(draw, truth, arguments, least):
    """1000 repeats, fixed beforehand: at least `least` less 3.5 standard errors (false alarm under 2.5e-4 each)."""
    rng = np.random.default_rng(5)
    found = [interval(draw(rng), generator=rng, **arguments) for _ in range(1000)]
    covered = np.mean([x.low <= truth <= x.high for x in found])
    slack = 3.5 * math.sqrt(least * (1 - least) / 1000)
    assert least - slack <= covered <= 0.985 + slack


def test_a_level_widens_the_interval():
    values = np.random.default_rng(0).random(30)
    for arguments in ({}, {"over": "seeds"}):
        narrow, wide = interval(values, level=0.5, **arguments), interval(values, level=0.99, **arguments)
        assert wide.low < narrow.low < narrow.high < wide.high


def test_constant_values_have_no_width():
    found = interval([0.5] * 12)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5), rel=1e-12)
    assert interval([0.5, 0.5], over="seeds") == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([0.5] * 9, {}, "at least 10 prompts for method bootstrap, got 9"),
        ([0.5], {"over": "seeds"}, "at least 2 seeds for method t, got 1"),
        ([], {"method": "wilson"}, "at least 1 prompts for method wilson, got 0"),
        ([0.5] * 20, {"over": "seeds", "method": "bootstrap"}, "covers less than its level; use method='t'"),
        ([0.5, 1.0], {"method": "wilson"}, "expected 0 and 1 for method wilson"),
        ([0.5, math.nan], {"over": "seeds"}, "1 that are not finite"),
        ([[0.5, 1.0]], {"over": "seeds"}, r"one axis of finite numbers, got shape \(1, 2\)"),
        ([0.5, 1.0], {"over": "runs"}, "over: expected prompts or seeds, got 'runs'"),
        ([0.5, 1.0], {"method": "bca"}, "method: expected bootstrap, t or wilson, got 'bca'"),
        ([0.5, 1.0], {"over": "seeds", "level": 95}, r"level: expected a number in \(0, 1\), got 95"),
    ],
)
def test_bad_input(values, arguments, message):
    with pytest.raises(UsageError, match=message):
        interval(values, **arguments)
