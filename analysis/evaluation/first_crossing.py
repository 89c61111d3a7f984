"""Where a curve first reaches a level, and what other curves are there.

The first crossing of a level is the first point at or above it, interpolated linearly between it and the one before:
at points e−1 and e with the fraction a = (level − x_{e−1}) / (x_e − x_{e−1}), any other curve y is
(1 − a)·y_{e−1} + a·y_e there. (`crossings` looks for something else: all zeros of a curve of ratios.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FirstCrossing", "first_crossing"]


@dataclass(frozen=True)
class FirstCrossing:
    """A place between two points of a curve.

    Attributes:
        before: The last point below the level; the first point where that lies on the level.
        after: The first point at or above it.
        fraction: How far the level is on the way from one to the other.
    """

    before: int
    after: int
    fraction: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """Another curve, or several as columns, at this place."""
        between: np.ndarray = (1 - self.fraction) * values[self.before] + self.fraction * values[self.after]
        return between


def first_crossing(x: np.ndarray, level: float) -> FirstCrossing | None:
    """The first crossing of a level; None for a curve that starts above it or never reaches it.

    >>> crossing = first_crossing(np.array([0.2, 0.4, 0.8]), 0.5)
    >>> round(float(crossing.of(np.array([0.0, 4.0, 8.0]))), 12)
    5.0
    """
    reached = np.flatnonzero(x >= level)
    if x[0] > level or not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return FirstCrossing(0, 0, 0.0)
    return FirstCrossing(after - 1, after, float((level - x[after - 1]) / (x[after] - x[after - 1])))
