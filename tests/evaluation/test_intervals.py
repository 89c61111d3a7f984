"""Intervals against closed forms, and their coverage at a sample size fixed beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

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


def test_fewer_than_five_seeds_have_it_wider():
    """By 7%: t(0.975, 2) = 4.302653; 200,000 draws of three uniform values, fixed beforehand, whose coverage has a
    standard error of 0.06 points. Plain t covers 92.3% of them, and what is claimed is 93."""
    values = [0.2, 0.5, 0.3]
    half = 1.07 * 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    found = interval(values, over="seeds")
    assert (found.low, found.high) == pytest.approx((1 / 3 - half, 1 / 3 + half), rel=1e-6)
    for seeds in (2, 3, 4):
        drawn = np.random.default_rng(6).random((200_000, seeds))
        away = np.abs(drawn.mean(1) - 0.5) / (drawn.std(1, ddof=1) / math.sqrt(seeds))
        assert np.mean(away <= 1.07 * stats.t.ppf(0.975, seeds - 1)) > 0.93 - 0.002


def test_of_few_units_a_proportion_has_that_of_clopper_and_pearson():
    """Each end leaves 2.5% to the outcomes up to, or from, the one that was seen."""
    for successes, n in ((0, 12), (3, 12), (47, 47)):
        found = interval([1] * successes + [0] * (n - successes), method="proportion")
        if successes:
            assert stats.binom.sf(successes - 1, n, found.low) == pytest.approx(0.025, rel=1e-9)
        if successes < n:
            assert stats.binom.cdf(successes, n, found.high) == pytest.approx(0.025, rel=1e-9)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
    many = [1] * 12 + [0] * 36
    assert interval(many, method="proportion") == interval(many, method="wilson")


@pytest.mark.parametrize("n", [10, 16, 31, 47, 48, 64])
def test_a_proportion_is_covered_at_every_p_that_is_claimed(n):
    """Exact, by summing over outcomes: at least 93% from p = 0.1 to 0.9, where Wilson's alone has 91.4% at 12 units."""
    ends = [interval([1] * s + [0] * (n - s), method="proportion") for s in range(n + 1)]
    for p in np.linspace(0.1, 0.9, 81):
        covers = np.array([end.low <= p <= end.high for end in ends])
        assert stats.binom.pmf(np.arange(n + 1), n, p)[covers].sum() > 0.93


def test_wilson_against_its_defining_equation():
    """Both ends solve (p̂ − p)² = z² p(1 − p)/n."""
    for successes, n in ((0, 12), (3, 12), (64, 64), (40, 100)):
        found = interval([1] * successes + [0] * (n - successes), method="wilson", level=0.9)
        share, z = successes / n, 1.6448536269514722
        for end in (found.low, found.high):
            assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)
        assert 0 <= found.low <= found.estimate == share <= found.high <= 1


def test_of_symmetric_values_it_is_students():
    values = np.concatenate([np.arange(20.0), -np.arange(20.0)])
    half = 2.022691 * np.std(values, ddof=1) / math.sqrt(40)  # t(0.975, 39)
    found = interval(values)
    assert (found.low, found.estimate, found.high) == pytest.approx((-half, 0.0, half), rel=1e-6)


def test_of_skewed_values_the_longer_arm_is_halls():
    """Hall's g(T) = T + r·T²/3 + r²·T³/27 + r/6 with r = (1 + 12/n)·skewness/√n is t at the end of the long arm, and
    the short arm is Student's."""
    values = np.random.default_rng(0).gamma(0.5, size=64)
    found = interval(values)
    mean, error = values.mean(), values.std(ddof=1) / 8
    r = (1 + 12 / 64) * ((values - mean) ** 3).mean() / values.std(ddof=1) ** 3 / 8
    t = (mean - found.high) / error  # T at that end
    assert t + r * t**2 / 3 + r**2 * t**3 / 27 + r / 6 == pytest.approx(-1.998341, rel=1e-6)  # t(0.975, 63)
    assert found.low == pytest.approx(mean - 1.998341 * error, rel=1e-6)
    assert found.high - mean > mean - found.low


def test_few_units_show_less_skewness_than_there_is():
    """The mean of the skewness of n exponential values is 2n/(n + 12), to 3%; 10,000 draws, fixed beforehand, whose
    standard error is below 0.5%."""
    for n in (16, 32, 64, 128):
        drawn = np.random.default_rng(7).exponential(size=(10_000, n))
        away = drawn - drawn.mean(1, keepdims=True)
        shown = ((away**3).mean(1) / drawn.std(1, ddof=1) ** 3).mean()
        assert shown == pytest.approx(2 * n / (n + 12), rel=0.045)


def test_success_of_zeros_and_ones_is_jeffreys():
    """Quantiles of Beta(s + ½, n − s + ½); those of 4000 draws have a standard error of 3% of the width: 4 of them."""
    for successes, n in ((9, 12), (40, 64), (200, 400)):
        found = interval([1.0] * successes + [0.0] * (n - successes), method="success")
        low, high = stats.beta.ppf([0.025, 0.975], successes + 0.5, n - successes + 0.5)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_success_never_leaves_out_the_estimate_and_knows_of_unseen_failures():
    found = interval([1.0] * 12, method="success")
    assert found.estimate == found.high == 1.0
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 12.5, 0.5), abs=0.02)
    values = np.random.default_rng(0).beta(0.5, 0.5, 40)
    assert interval(values, method="success", generator=3) == interval(values, method="success", generator=3)
    assert interval(values, method="success", generator=3) != interval(values, method="success", generator=4)


def test_where_a_few_prompts_carry_the_spread_there_is_none():
    values = np.zeros(100)
    values[:2] = 1.0, 0.5
    found = interval(values)
    assert found.reason == "a few prompts carry nearly all of the spread"
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_weights_are_shares_of_resamples():
    weights = bootstrap_weights(7, 0, 50)
    assert weights.shape == (50, 7)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights * 7 == pytest.approx(np.round(weights * 7))


@pytest.mark.parametrize(
    ("draw", "truth", "arguments", "least"),
    [
        (lambda rng: rng.normal(size=5), 0.0, {"over": "seeds"}, 0.95),
        (lambda rng: rng.gamma(1, size=32), 1.0, {}, 0.93),
        (lambda rng: rng.lognormal(size=16), math.exp(0.5), {}, 0.93),
        (lambda rng: rng.beta(0.1, 0.3, size=16), 0.25, {"method": "success"}, 0.93),
        (lambda rng: -np.expm1(256 * np.log1p(-rng.beta(0.5, 0.5, size=10))), 0.96478, {"method": "success"}, 0.93),
        (lambda rng: rng.random(40) < 0.1, 0.1, {"method": "wilson"}, 0.94),  # discrete: between 94 and 98%
    ],
)
def test_coverage(draw, truth, arguments, least):
    """1000 repeats, fixed beforehand: at least `least` less 3.5 standard errors (false alarm under 2.5e-4 each).

    0.96478 is the mean of 1 − (1 − p)^256 over Beta(½, ½), 1 − B(½, 256½)/B(½, ½); a percentile bootstrap covers 60%.
    """
    rng = np.random.default_rng(5)
    found = [interval(draw(rng), generator=rng, **arguments) for _ in range(1000)]
    covered = np.mean([x.low <= truth <= x.high for x in found if not x.reason])
    slack = 3.5 * math.sqrt(least * (1 - least) / 1000)
    assert least - slack <= covered <= 0.985 + slack


def test_a_level_widens_the_interval():
    values = np.random.default_rng(0).random(30)
    for arguments in ({}, {"over": "seeds"}):
        narrow, wide = interval(values, level=0.5, **arguments), interval(values, level=0.99, **arguments)
        assert wide.low < narrow.low < narrow.high < wide.high


def test_constant_values():
    """Prompts that were not drawn may differ; equal seeds are what a deterministic quantity gives."""
    assert interval([0.1] * 24).reason == "all prompts have the same value"
    assert interval([0.5, 0.5], over="seeds") == Interval(0.5, 0.5, 0.5, "seed_mean")


@pytest.mark.parametrize(
    ("values", "arguments", "reason"),
    [
        ([0.5, 0.6] * 7, {}, "fewer than 16 prompts (14)"),
        ([0.5] * 9, {"method": "success"}, "fewer than 10 prompts (9)"),
        ([1.0] * 9, {"method": "wilson"}, "fewer than 10 prompts (9)"),
        ([1.0] * 9, {"method": "proportion"}, "fewer than 10 prompts (9)"),
        ([0.5], {"over": "seeds"}, "fewer than 2 seeds (1)"),
    ],
)
def test_too_few_say_why(values, arguments, reason):
    found = interval(values, **arguments)
    assert found.reason == reason
    assert found.estimate == pytest.approx(np.mean(values))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([], {"method": "wilson"}, r"at least one, got shape \(0,\)"),
        ([0.5] * 20, {"over": "seeds", "method": "skewed"}, "skewed is for many prompts; use method='t' over seeds"),
        ([0.5, 1.5] * 9, {"method": "success"}, r"numbers in \[0, 1\] for method success, got 0.5 to 1.5"),
        ([0.5, 1.0], {"method": "wilson"}, "expected 0 and 1 for methods proportion and wilson"),
        ([0.5, math.nan], {"over": "seeds"}, "1 that are not finite"),
        ([[0.5, 1.0]], {"over": "seeds"}, r"one axis of finite numbers, at least one, got shape \(1, 2\)"),
        ([0.5, 1.0], {"over": "runs"}, "over: expected prompts or seeds, got 'runs'"),
        ([0.5, 1.0], {"method": "bca"}, "method: expected proportion, skewed, success, t or wilson, got 'bca'"),
        ([0.5, 1.0], {"over": "seeds", "level": 95}, r"level: expected a number in \(0, 1\), got 95"),
    ],
)
def test_bad_input(values, arguments, message):
    with pytest.raises(UsageError, match=message):
        interval(values, **arguments)
