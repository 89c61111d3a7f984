"""Intervals for a mean: over prompts, over seeds, or for a proportion.

Prompts of one policy: percentile bootstrap of the mean over resampled prompts. Seeds: Student's t on n − 1 degrees of
freedom, as a percentile bootstrap over five seeds covers 83% instead of 95%. A proportion: Wilson's score interval
(Wilson 1927, JASA 22:209), which keeps its coverage near 0 and 1. An interval over prompts says nothing about other
seeds; for differences between paired runs pass the differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError

__all__ = ["LEAST_PROMPTS", "Interval", "bootstrap_weights", "interval", "normal_quantile"]

_RESAMPLES = 2000
LEAST_PROMPTS = 10  # a percentile bootstrap of fewer covers well under its level


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval.

    Attributes:
        estimate: the mean.
        low: lower end; NaN where there is no interval.
        high: upper end; NaN where there is no interval.
    """

    estimate: float
    low: float
    high: float


def interval(
    values: ArrayLike,
    *,
    over: Literal["prompts", "seeds"] = "prompts",
    method: Literal["bootstrap", "t", "wilson"] | None = None,
    level: float = 0.95,
    generator: np.random.Generator | int = 0,
) -> Interval:
    """Mean of `values` with a two-sided interval of the given level.

    Args:
        values: one number for each unit.
        over: the unit that the values are independent draws of.
        method: unset: bootstrap over prompts, t over seeds. wilson is for values 0 and 1 over either.
        level: coverage, such as 0.95.
        generator: of the bootstrap, or its seed.

    Raises:
        UsageError: values that are not finite or too few (10 prompts for the bootstrap, 2 for t, 1 for wilson), a
            bootstrap over seeds, or wilson on values other than 0 and 1.

    Example:
        >>> mean = interval([0.0, 2.0], over="seeds")
        >>> [round(value, 4) for value in (mean.estimate, mean.low, mean.high)]
        [1.0, -11.7062, 13.7062]
    """
    data = np.asarray(values, dtype=np.float64)
    method = method or {"prompts": "bootstrap", "seeds": "t"}.get(over)  # type: ignore[assignment]
    if over not in ("prompts", "seeds"):
        raise UsageError(f"over: expected prompts or seeds, got {over!r}")
    if method not in ("bootstrap", "t", "wilson"):
        raise UsageError(f"method: expected bootstrap, t or wilson, got {method!r}")
    if not 0 < level < 1:
        raise UsageError(f"level: expected a number in (0, 1), got {level}")
    if data.ndim != 1 or not np.isfinite(data).all():
        raise UsageError(
            f"values: expected one axis of finite numbers, got shape {data.shape} with "
            f"{int((~np.isfinite(data)).sum())} that are not finite; leave missing values out"
        )
    least = {"bootstrap": LEAST_PROMPTS, "t": 2, "wilson": 1}[method]
    if len(data) < least:
        raise UsageError(f"values: expected at least {least} {over} for method {method}, got {len(data)}")
    if method == "wilson":
        return _wilson(data, level)
    if method == "t":
        return _student(data, level)
    if over == "seeds":
        raise UsageError("method: a percentile bootstrap over seeds covers less than its level; use method='t'")
    means = bootstrap_weights(len(data), generator) @ data
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high))


def bootstrap_weights(n: int, generator: np.random.Generator | int, resamples: int = _RESAMPLES) -> np.ndarray:
    """Shares (resamples, n) that n units have in resamples drawn with replacement; each row sums to 1.

    One draw serves every quantity of the same units, which keeps comparisons paired.
    """
    drawn = np.random.default_rng(generator).integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n) / n


def normal_quantile(level: float = 0.95) -> float:
    """Half the width of a two-sided normal interval of this level, in standard errors.

    >>> round(normal_quantile(0.95), 4)
    1.96
    """
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _student(data: np.ndarray, level: float) -> Interval:
    from scipy.special import stdtrit

    mean = float(data.mean())
    half = float(stdtrit(len(data) - 1, (1 + level) / 2)) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean, mean - half, mean + half)


def _wilson(data: np.ndarray, level: float) -> Interval:
    if not np.isin(data, (0.0, 1.0)).all():
        raise UsageError("values: expected 0 and 1 for method wilson, got others; use bootstrap or t for means")
    n, share, z = len(data), float(data.mean()), normal_quantile(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))  # within rounding
