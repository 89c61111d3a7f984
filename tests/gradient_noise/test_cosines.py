"""The interval of the cosine of an estimator's expectation with ∇p: variance by hand, its ends, and its coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.gradient_noise.cosines import _variance, cosine_interval


def replicates(
    rng: np.random.Generator, cosine: float, signal: float, count: int, directions: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Normal replicates (K, D) of variance 1 around an expectation of that cosine, and the gradient, both of norm
    √signal."""
    expected = np.sqrt(signal) * np.array([cosine, math.sqrt(1 - cosine**2), *[0.0] * (directions - 2)])
    gradient = np.zeros(directions)
    gradient[0] = np.sqrt(signal)
    return expected + rng.normal(size=(count, directions)) / math.sqrt(directions), gradient


def of(drawn: np.ndarray, gradient: np.ndarray):
    return cosine_interval(drawn @ drawn.T, drawn @ gradient, float(gradient @ gradient))


def test_the_variance_is_that_of_all_pairs_by_hand() -> None:
    """Means over distinct indices, written as loops over them."""
    rng = np.random.default_rng(0)
    first, second = (np.round(m + m.T, 2) for m in rng.normal(size=(2, 6, 6)))
    for w in (0.0, 0.3, 1.0):
        phi = first - w * second
        pairs = [phi[j, k] for j, k in itertools.permutations(range(6), 2)]
        stars = [phi[j, k] * phi[j, m] for j, k, m in itertools.permutations(range(6), 3)]
        apart = [phi[j, k] * phi[m, n] for j, k, m, n in itertools.permutations(range(6), 4)]
        linear, pure = np.mean(stars) - np.mean(apart), np.mean(np.square(pairs)) - np.mean(apart)
        by_hand = (4 * 4 * max(linear, 0) + 2 * max(pure, 0)) / 30
        assert _variance(first, second)(np.array([w]))[0] == pytest.approx(by_hand, rel=1e-9)


def test_the_variance_is_unbiased() -> None:
    """Of S at the true w = 0.25, K = 8: 4000 draws, fixed beforehand. The mean of the estimates has a standard error
    of 1 to 2%, the variance of S one of 3% (its tails are a little long): within 12%."""
    rng, sums, variances = np.random.default_rng(1), [], []
    for _ in range(4000):
        drawn, _ = replicates(rng, 0.5, 1.0, 8)
        along, gram = drawn[:, 0], drawn @ drawn.T
        off = ~np.eye(8, dtype=bool)
        sums.append((np.outer(along, along) - 0.25 * gram)[off].mean())
        variances.append(_variance(np.outer(along, along), gram)(np.array([0.25]))[0])
    assert abs(np.mean(sums)) < 4 * np.std(sums) / math.sqrt(4000)
    assert np.mean(variances) == pytest.approx(np.var(sums), rel=0.12)


def test_the_ends_are_where_the_statistic_is_a_quantile() -> None:
    drawn, gradient = replicates(np.random.default_rng(2), 0.5, 2.0, 16)
    found = of(drawn, gradient)
    along, gram, off = drawn[:, 0], drawn @ drawn.T, ~np.eye(16, dtype=bool)
    assert 0 < found.low < found.estimate < found.high < 1
    for end, sign in ((found.low, 1), (found.high, -1)):
        statistic = (np.outer(along, along) - end**2 * gram)[off].mean()
        error = math.sqrt(_variance(np.outer(along, along), gram)(np.array([end**2]))[0])
        assert sign * statistic / error == pytest.approx(stats.t.ppf(0.975, 15), rel=1e-6)


def test_scale_and_sign() -> None:
    drawn, gradient = replicates(np.random.default_rng(3), 0.7, 1.0, 12)
    found, scaled, turned = of(drawn, gradient), of(5 * drawn, 3 * gradient), of(drawn, -gradient)
    assert (scaled.estimate, scaled.low, scaled.high) == pytest.approx((found.estimate, found.low, found.high))
    assert (turned.estimate, turned.low, turned.high) == pytest.approx((-found.estimate, -found.high, -found.low))


def test_replicates_that_are_all_alike_leave_nothing_open() -> None:
    drawn = np.tile([[0.6, 0.8]], (8, 1))
    found = of(drawn, np.array([2.0, 0.0]))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-6)
    assert of(np.tile([[1.0, 0.0]], (8, 1)), np.array([2.0, 0.0])).high == 1


def test_with_hardly_any_signal_the_sign_is_open() -> None:
    drawn, gradient = replicates(np.random.default_rng(4), 1.0, 0.01, 8)
    found = of(drawn, gradient)
    assert found.low == -found.high or found.reason == "the replicates have no direction in common"


def test_where_there_is_none_it_says_why() -> None:
    drawn, gradient = replicates(np.random.default_rng(5), 0.9, 1.0, 7)
    assert of(drawn, gradient).reason == "fewer than 8 replicates (7)"
    assert of(drawn, 0 * gradient).reason == "the exact gradient is 0"
    nothing = of(np.zeros((8, 3)), np.ones(3))
    assert nothing.reason == "the replicates have no direction in common"
    assert math.isnan(nothing.estimate)


@pytest.mark.parametrize(("cosine", "most"), [(1.0, 1.0), (0.5, 0.97)])
@pytest.mark.parametrize("signal", [0.1, 1.0])
def test_coverage(cosine: float, most: float, signal: float) -> None:
    """500 draws of 16 replicates, fixed beforehand: 93% or more less 3.5 standard errors (a false alarm in 4,000
    each); at a cosine of 1, the boundary, only the lower end can miss. ±2 jackknife errors cover 30 to 80% of these."""
    rng = np.random.default_rng(6)
    found = [of(*replicates(rng, cosine, signal, 16)) for _ in range(500)]
    kept = [end for end in found if not end.reason]
    covered = np.mean([end.low <= cosine <= end.high for end in kept])
    slack = 3.5 * math.sqrt(0.05 * 0.95 / len(kept))
    assert len(kept) > 450
    assert 0.93 - slack <= covered <= most + slack
