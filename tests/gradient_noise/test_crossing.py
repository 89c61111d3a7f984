"""The crossing of a measured ratio through one, on curves whose crossings are known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.evaluation import Crossing, crossing

P = np.array([0.9, 0.1, 0.5, 0.7, 0.3])  # in any order
SHARP = np.zeros(5)


def falling(p: np.ndarray) -> np.ndarray:
    return np.exp(6 * (0.62 - p))


def test_a_straight_line_in_the_logarithm_is_met_exactly():
    found = crossing(P, falling(P), 0.25 * falling(P))
    assert found.at == pytest.approx(0.62, abs=1e-12)
    half = 1.959964 * 0.25 / 6  # where the band's edges meet zero
    assert found.low == pytest.approx(0.62 - half, abs=1e-6)
    assert found.high == pytest.approx(0.62 + half, abs=1e-6)


def test_without_errors_the_interval_is_the_point():
    found = crossing(P, falling(P), SHARP)
    assert found.low == found.at == found.high == pytest.approx(0.62)


def test_a_measured_one_is_a_crossing():
    assert crossing([0.2, 0.4, 0.6], [2.0, 1.0, 0.5], [0.0, 0.0, 0.0]) == Crossing(0.4, 0.4, 0.4)


def test_each_point_has_its_own_error():
    """Two points: relative errors 0.1 at the right and 0.3 at the left; the zeros of both edges of the band by hand."""
    found = crossing([0.6, 0.2], [0.5, 2.0], [0.05, 0.6])
    up, left, right = np.log(2), 1.959964 * 0.3, 1.959964 * 0.1
    assert found.low == pytest.approx(0.2 + 0.4 * (up - left) / (2 * up - left + right), abs=1e-6)
    assert found.high == pytest.approx(0.2 + 0.4 * (up + left) / (2 * up + left - right), abs=1e-6)


def test_none_within_the_range_and_open_ends():
    assert crossing(P, falling(P) * 100, SHARP) == Crossing(None, None, None)
    far = crossing(P, falling(P) * 8, 2.0 * falling(P))  # the band reaches one at the right end, the ratio does not
    assert far.at is None
    assert far.low is not None
    assert far.high is None
    wide = crossing(P, falling(P), 3 * falling(P))
    assert wide.at == pytest.approx(0.62)
    assert wide.low is None
    assert wide.high is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [1.0, 2.0], [0.0]), "three equally long lists"),
        (([], [], []), "three equally long lists"),
        (([0.1, 0.2], [1.0, np.nan], [0.0, 0.0]), "ratio: expected finite positive numbers"),
        (([0.1, 0.2], [1.0, 0.0], [0.0, 0.0]), "ratio: expected finite positive numbers"),
    ],
)
def test_bad_points(arguments, message):
    with pytest.raises(UsageError, match=message):
        crossing(*arguments)
