"""Intervals for a mean: over prompts, over seeds, or for a proportion.

Prompts: `influence.ends_of`, Student's t and its skewness-corrected form. Prompts whose values lie in [0, 1], such as
Pass@k, have an interval of their own (method success), which knows that a prompt that was not drawn may lie at the
other end: a percentile bootstrap of Pass@256 covers 55% over 10 prompts and 90% over 64. Seeds: Student's t on n − 1
degrees of freedom, 7% wider below five seeds. A proportion: Wilson's score interval (Wilson 1927, JASA 22:209), of few
units that of Clopper and Pearson (1934, Biometrika 26:404). An interval over prompts says nothing about other seeds;
for differences between paired runs pass the differences.

How often each covers, and where: docs/intervals.md, made by `python -m analysis.coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..common.arguments import check_numbers
from ..errors import UsageError
from .influence import Spread, ends_of, few
from .interval_kinds import (
    LEAST_PROMPTS,
    LEAST_PROMPTS_DIFFERENCE,
    LEAST_PROMPTS_SUCCESS,
    LEAST_REPLICATES,
    LEAST_SEEDS,
    WILSON_UNITS,
    Kind,
)

__all__ = [
    "LEAST_PROMPTS",
    "Interval",
    "bootstrap_weights",
    "interval",
    "mean_over_replicates",
    "no_interval",
    "normal_quantile",
    "over_replicates",
    "smooth",
    "student_quantile",
    "success",
]

_LEAST = dict.fromkeys((Kind.PROMPT_DIFFERENCE, Kind.MATCHED_DIFFERENCE), LEAST_PROMPTS_DIFFERENCE)
_RESAMPLES = 2000
_DRAWS = 4000
_ROWS = 1 << 22  # random numbers at a time
_CROWDED = 0.1  # of the variance that zeros and ones of the same mean have; less is far from both ends
_PLAIN_PROMPTS, _PLAIN_CARRYING = 24, 4.0  # from which the ends are left out where values are crowded
_WIDEST = math.log(1e6)  # half of an interval of a logarithm, beyond which there is none
_ENDS = 0.5  # prompts at 0 and at 1 that the prior of `success` adds: Jeffreys' where values are 0 and 1

_FEW_SEEDS, _WIDER = 5, 1.07  # Student's t covers 92.3% of uniform values with 3 seeds, so fewer than 5 have it wider

Method = Literal["proportion", "skewed", "success", "t", "wilson"]
_METHODS = ("proportion", "skewed", "success", "t", "wilson")


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval.

    Attributes:
        estimate: the mean.
        low: lower end; NaN where there is no interval.
        high: upper end; NaN where there is no interval.
        kind: what kind of interval it is, one of `Kind`.
        reason: why there is none; empty where there is one.
    """

    estimate: float
    low: float
    high: float
    kind: str = ""
    reason: str = ""

    @classmethod
    def around(cls, estimate: float, ends: tuple[float, float, str], kind: str) -> Interval:
        """From offsets of both ends, as `ends_of` gives them."""
        return cls(estimate, estimate + ends[0], estimate + ends[1], kind, ends[2])


def no_interval(estimate: float, reason: str, kind: str = "") -> Interval:
    """An estimate alone, with the reason."""
    return Interval(float(estimate), math.nan, math.nan, kind, reason)


def interval(
    values: ArrayLike,
    *,
    over: Literal["prompts", "seeds"] = "prompts",
    method: Method | None = None,
    level: float = 0.95,
    generator: np.random.Generator | int = 0,
) -> Interval:
    """Mean of `values` with a two-sided interval of the given level.

    Args:
        values: one number for each unit.
        over: the unit that the values are independent draws of.
        method: unset: skewed over prompts (Student's t and its skewness-corrected form, the farther end of both), t
            over seeds. success is for numbers in [0, 1] over prompts, proportion for values 0 and 1 over either; wilson
            is Wilson's score interval for those, whatever their number.
        level: coverage, such as 0.95.
        generator: of the draws of method success, or its seed.

    Returns:
        The mean and the ends; NaN with a `reason` where too few values, or too few that differ, leave no interval that
        covers.

    Raises:
        UsageError: no values, values that are not finite, success, proportion or wilson on other values than they
            are for, or a method that does not go with the unit.

    Example:
        >>> mean = interval([0.0, 2.0], over="seeds")
        >>> [round(value, 4) for value in (mean.estimate, mean.low, mean.high)]
        [1.0, -12.5956, 14.5956]
        >>> interval([0.2, 0.4, 0.9]).reason
        'fewer than 16 prompts (3)'
    """
    data = check_numbers("values", values)
    if over not in ("prompts", "seeds"):
        raise UsageError(f"over: expected prompts or seeds, got {over!r}")
    method = method or ("skewed" if over == "prompts" else "t")
    if method not in _METHODS:
        raise UsageError(f"method: expected {', '.join(_METHODS[:-1])} or {_METHODS[-1]}, got {method!r}")
    if not 0 < level < 1:
        raise UsageError(f"level: expected a number in (0, 1), got {level}")
    if data.ndim != 1 or not data.size or not np.isfinite(data).all():
        raise UsageError(
            f"values: expected one axis of finite numbers, at least one, got shape {data.shape} with "
            f"{int((~np.isfinite(data)).sum())} that are not finite; leave missing values out"
        )
    if over == "seeds" and method in ("skewed", "success"):
        raise UsageError(f"method: {method} is for many prompts; use method='t' over seeds")
    if method in ("proportion", "wilson"):
        return _proportion(data, level, over, exact=method == "proportion" and len(data) < WILSON_UNITS)
    if method == "t":
        return _student(data, level, over)
    if method == "success":
        return success(data, level=level, generator=generator)
    return smooth(float(data.mean()), [Spread.of(data, float(np.abs(data).max()))], Kind.PROMPT_MEAN, level)


def smooth(
    estimate: float, spreads: list[Spread], kind: Kind, level: float = 0.95, least: int | None = None
) -> Interval:
    """A smooth statistic with the interval of `influence.ends_of`, from the least number of units of its kind on."""
    least = _LEAST.get(kind, LEAST_PROMPTS) if least is None else least
    return Interval.around(estimate, ends_of(spreads, level, least), kind)


def success(
    values: np.ndarray,
    *,
    level: float = 0.95,
    generator: np.random.Generator | int = 0,
    matching: np.ndarray | None = None,
    kind: Kind = Kind.SUCCESS,
) -> Interval:
    """Mean of numbers in [0, 1] over prompts.

    The posterior of the mean under a Dirichlet process (Ferguson 1973, Ann. Statist. 1:209) whose prior is half a
    prompt at 0 and half a prompt at 1: Dirichlet weights 1 on each prompt and ½ on either end. For zeros and ones this
    is Jeffreys' interval; without the ends it is Rubin's Bayesian bootstrap. Where all values are crowded far from the
    ends (a variance below 0.1·m(1 − m)) the ends would widen it for nothing: there the interval is `smooth` from 24
    prompts, or the union of both where there are fewer or a few prompts carry the spread. The estimate is never left
    out.

    Args:
        values: (n,), in [0, 1] but for rounding.
        level: coverage.
        generator: of the draws, or its seed.
        matching: (B,) deviations of the mean in resamples of what the values were matched at; unset: there are none.
        kind: of the interval.

    Raises:
        UsageError: values outside [0, 1].
    """
    if values.min() < -1e-9 or values.max() > 1 + 1e-9:
        raise UsageError(
            f"values: expected numbers in [0, 1] for method success, got {values.min():g} to {values.max():g}; use "
            "method skewed"
        )
    n, mean = len(values), float(values.mean())
    if n < LEAST_PROMPTS_SUCCESS:
        return no_interval(mean, few(n, LEAST_PROMPTS_SUCCESS), kind)
    spreads = [Spread.of(values)]
    if matching is not None:
        spreads.append(Spread.of_draws(matching, n))
    carried = n >= _PLAIN_PROMPTS and _PLAIN_CARRYING <= spreads[0].carrying < np.inf
    crowded = n * spreads[0].variance < _CROWDED * mean * (1 - mean)
    plain = ends_of(spreads, level, LEAST_PROMPTS_SUCCESS, 0.0)
    if crowded and carried:
        low, high = mean + plain[0], mean + plain[1]
    else:
        draws = _posterior(values, generator)
        if matching is not None:
            draws = draws + np.resize(matching, len(draws))
        low, high = (float(end) for end in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
        if crowded:
            low, high = np.fmin(low, mean + plain[0]), np.fmax(high, mean + plain[1])
    return Interval(mean, max(0.0, min(float(low), mean)), min(1.0, max(float(high), mean)), kind)


def _posterior(values: np.ndarray, generator: np.random.Generator | int) -> np.ndarray:
    """Draws (_DRAWS,) of the mean."""
    if isinstance(generator, (int, np.integer)) and len(values) * _DRAWS <= _ROWS:
        weights, at_one = _kept_weights(len(values), int(generator))
        drawn: np.ndarray = weights @ values + at_one
        return drawn
    rng = np.random.default_rng(generator)
    rows = max(1, _ROWS // len(values))
    parts = []
    for start in range(0, _DRAWS, rows):
        weights, at_one = _weights(len(values), min(rows, _DRAWS - start), rng)
        parts.append(weights @ values + at_one)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _kept_weights(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return _weights(n, _DRAWS, np.random.default_rng(seed))


def _weights(n: int, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dirichlet weights of the prompts (rows, n) and of the end at 1 (rows,)."""
    prompts, ends = rng.standard_exponential((rows, n)), rng.standard_gamma(_ENDS, (rows, 2))
    total = prompts.sum(1) + ends.sum(1)
    return prompts / total[:, None], ends[:, 1] / total


def bootstrap_weights(
    n: int, generator: np.random.Generator | int | Sequence[int], resamples: int = _RESAMPLES
) -> np.ndarray:
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


def student_quantile(freedom: float, level: float = 0.95) -> float:
    """Half the width of Student's interval, in standard errors.

    >>> round(student_quantile(4), 4)
    2.7764
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def over_replicates(value: float, error: float, replicates: int, level: float = 0.95) -> Interval:
    """A positive quantity with the interval of its logarithm over replicates, from its jackknife standard error.

    >>> found = over_replicates(2.0, 0.1, 16)
    >>> round(found.low, 3), round(found.high, 3)
    (1.798, 2.225)
    """
    if replicates < LEAST_REPLICATES:
        return no_interval(value, few(replicates, LEAST_REPLICATES, "replicates"), Kind.NOISE)
    if not value > 0:
        return no_interval(value, "what is not positive has no logarithm", Kind.NOISE)
    half = student_quantile(replicates - 1, level) * error / value  # of the logarithm
    if not half < _WIDEST:
        return no_interval(value, "the replicates do not tell its order of magnitude", Kind.NOISE)
    return Interval(value, value / math.exp(half), value * math.exp(half), Kind.NOISE)


def mean_over_replicates(value: float, error: float, replicates: int, level: float = 0.95) -> Interval:
    """A mean over replicates with Student's interval, from its standard error.

    >>> found = mean_over_replicates(1.0, 0.1, 16)
    >>> round(found.low, 3), round(found.high, 3)
    (0.787, 1.213)
    """
    if replicates < LEAST_REPLICATES:
        return no_interval(value, few(replicates, LEAST_REPLICATES, "replicates"), Kind.REPLICATE_MEAN)
    half = student_quantile(replicates - 1, level) * error
    return Interval(value, value - half, value + half, Kind.REPLICATE_MEAN)


def _student(data: np.ndarray, level: float, over: str) -> Interval:
    mean, n = float(data.mean()), len(data)
    kind = Kind.SEED_MEAN if over == "seeds" else Kind.PROMPT_MEAN
    if n < LEAST_SEEDS:
        return no_interval(mean, few(n, LEAST_SEEDS, over), kind)
    wider = _WIDER if n < _FEW_SEEDS else 1.0
    half = wider * student_quantile(n - 1, level) * float(data.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, kind)


def _proportion(data: np.ndarray, level: float, over: str, *, exact: bool) -> Interval:
    if not np.isin(data, (0.0, 1.0)).all():
        raise UsageError(
            "values: expected 0 and 1 for methods proportion and wilson, got others; use skewed or t for means"
        )
    n, share = len(data), float(data.mean())
    if n < LEAST_PROMPTS_SUCCESS:
        return no_interval(share, few(n, LEAST_PROMPTS_SUCCESS, over), Kind.PROPORTION)
    low, high = (_clopper_pearson if exact else _wilson)(round(share * n), n, level)
    return Interval(share, max(0.0, min(low, share)), min(1.0, max(high, share)), Kind.PROPORTION)  # within rounding


def _wilson(successes: int, n: int, level: float) -> tuple[float, float]:
    share, z = successes / n, normal_quantile(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def _clopper_pearson(successes: int, n: int, level: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    tail, failures = (1 - level) / 2, n - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return low, high
