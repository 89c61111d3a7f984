"""The crossing of a measured ratio through one: lines in logit p whose zero is known, against an independent fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.errors import UsageError
from analysis.evaluation import Crossing, crossing

P = np.array([0.9, 0.1, 0.5, 0.7, 0.3])  # in any order
SHARP = np.zeros(5)


def logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def falling(p: np.ndarray) -> np.ndarray:
    return np.exp(logit(0.62) - logit(p))


def test_a_straight_line_in_logit_p_is_met_exactly():
    found = crossing(P, falling(P), 0.25 * falling(P))
    assert found.at == pytest.approx(0.62, abs=1e-9)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.62 < found.high


def test_the_interval_is_fiellers():
    """Equal errors and no scatter beyond them: ordinary least squares with a known variance, t on three."""
    x, y = logit(P), np.log(falling(P)) + 0.1 * np.array([1, -1, 0.5, 1, -1])
    found = crossing(P, np.exp(y), 0.25 * np.exp(y))
    terms = np.column_stack([np.ones(5), x])
    covariance = 0.25**2 * np.linalg.inv(terms.T @ terms)
    b = np.linalg.lstsq(terms, y, rcond=None)[0]
    t = stats.t.ppf(0.975, 3)
    quadratic = [
        b[1] ** 2 - t**2 * covariance[1, 1],
        2 * (b[0] * b[1] - t**2 * covariance[0, 1]),
        b[0] ** 2 - t**2 * covariance[0, 0],
    ]
    low, high = sorted(1 / (1 + np.exp(-np.roots(quadratic))))
    assert found.at == pytest.approx(1 / (1 + np.exp(b[0] / b[1])), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_scatter_beyond_the_errors_widens_it():
    scattered = falling(P) * np.exp([0.5, -0.5, 0.5, -0.5, 0.5])
    near = crossing(P, falling(P), 0.02 * falling(P))
    far = crossing(P, scattered, 0.02 * scattered)
    assert near.low is not None
    assert near.high is not None
    assert near.high - near.low < 0.05
    assert far.low is None or far.high is None or far.high - far.low > 0.2


def test_without_errors_the_interval_is_the_point():
    found = crossing(P, falling(P), SHARP)
    assert (found.low, found.at, found.high) == pytest.approx((0.62, 0.62, 0.62), abs=1e-4)


def test_a_parabola_from_seven_policies():
    p = np.linspace(0.15, 0.95, 9)
    bent = np.exp(-(logit(p) - logit(0.7)) * (1 + 0.2 * logit(p)))
    assert crossing(p, bent, 0.1 * bent).at == pytest.approx(0.7, abs=1e-5)


def test_three_policies_have_no_interval():
    found = crossing([0.2, 0.5, 0.8], [16.0, 4.0, 1.0], [0.1, 0.1, 0.1])
    assert found.at == pytest.approx(0.8, abs=0.01)
    assert (found.low, found.high) == (None, None)
    assert found.words().endswith("(no interval: fewer than 4 policies of different accuracy (3))")


def test_none_within_the_range_and_open_ends():
    beyond = crossing(P, falling(P) * 100, SHARP)
    assert (beyond.at, beyond.low, beyond.high) == (None, None, None)
    far = crossing(P, falling(P) * 8, 1.0 * falling(P))  # the band reaches one at the right end, the ratio does not
    assert far.at is None
    assert far.high is None
    wide = crossing(P, falling(P), 3 * falling(P))
    assert wide.at == pytest.approx(0.62)
    assert wide.low is None
    assert wide.high is None
    assert Crossing(0.5, None, 0.6).words().endswith("(95% interval beyond to 0.600)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [1.0, 2.0], [0.0]), "three equally long lists"),
        (([], [], []), "three equally long lists"),
        (([0.1, 0.2], [1.0, np.nan], [0.0, 0.0]), "ratio: expected finite positive numbers"),
        (([0.1, 0.2], [1.0, 0.0], [0.0, 0.0]), "ratio: expected finite positive numbers"),
        (([0.2, 0.2], [1.0, 2.0], [0.0, 0.0]), "p: expected at least two different numbers"),
        (([0.2, 1.0], [1.0, 2.0], [0.0, 0.0]), "strictly between 0 and 1"),
    ],
)
def test_bad_points(arguments, message):
    with pytest.raises(UsageError, match=message):
        crossing(*arguments)
