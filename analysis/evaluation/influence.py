"""Intervals of smooth statistics of independent units from the influence of each unit, corrected for skewness.

A statistic of n units is to first order its value plus the mean of the units' influences d_i (Σ d_i = 0): of a mean
d_i = x_i − x̄, of a ratio Σa/Σb it is (a_i − R·b_i)/b̄. With s² = Σd²/(n − 1), skewness g = mean(d³)/s³ and r = g/√n,
Student's interval is estimate ± t·s/√n, and Hall's (1992, JRSS B 54:221) replaces ±t by the inverse of his cubic
transformation, (3/r)(∛(1 + r(±t − r/6)) − 1). Few units from a long tail show less skewness than it has, exponential
ones n/(n + 12) of it on average (16 to 128 units, to 3%), so g counts 1 + 12/n times. Student's is short on the side of
the long tail, Hall's on the other where the skewness is estimated badly; the farther end of both is taken. Several sets
of units (test and validation prompts) add their variances and third cumulants; the degrees of freedom are Welch's.

Where a few units carry all of the spread, rare units that were not drawn would carry more, and no interval from the
values alone covers: below `LEAST_CARRYING` of (Σd²)²/Σd⁴ there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .interval_kinds import LEAST_CARRYING, LEAST_PROMPTS

__all__ = ["ALL_EQUAL", "FEW_CARRY", "Spread", "ends_of", "few"]

FEW_CARRY = "a few prompts carry nearly all of the spread"
ALL_EQUAL = "all prompts have the same value"
_UNSEEN = 12  # the skewness counts 1 + _UNSEEN/n times, as that of exponential values has to
_ROUNDING = 1e-12  # of a spread beside the size of the values: equal but for rounding


def few(count: int, least: int, units: str = "prompts") -> str:
    """The reason for no interval where there are too few units.

    >>> few(8, 16)
    'fewer than 16 prompts (8)'
    """
    return f"fewer than {least} {units} ({count})"


@dataclass(frozen=True)
class Spread:
    """How one set of units spreads an estimate.

    Attributes:
        variance: Of the estimate.
        third: Its third cumulant.
        fourth: Σ(d/n)⁴, from which the number of units that carry the spread follows.
        units: How many there are.
        size: Of the values, against which rounding is told apart.
    """

    variance: float
    third: float
    fourth: float
    units: int
    size: float = 0.0

    @property
    def carrying(self) -> float:
        """The units that carry the spread, (Σd²)²/Σd⁴; infinite where there is no spread."""
        return self.variance**2 / self.fourth if self.fourth > 0 else np.inf

    @classmethod
    def of(cls, influence: np.ndarray, size: float = 0.0) -> Spread:
        """From the influence of each unit (n,); its mean is taken off."""
        n = len(influence)
        d = influence - influence.mean()
        second = float((d**2).sum())
        return cls(second / (n * max(n - 1, 1)), float((d**3).sum()) / n**3, float((d**4).sum()) / n**4, n, size)

    @classmethod
    def of_draws(cls, draws: np.ndarray, units: int, size: float = 0.0) -> Spread:
        """From estimates (B,) of resamples of so many units; those carry the spread as normal values do."""
        d = draws - draws.mean()
        variance = float((d**2).mean()) * units / (units - 1)
        return cls(variance, float((d**3).mean()), 3 * variance**2 / units, units, size)


def ends_of(
    spreads: Sequence[Spread], level: float, least: int = LEAST_PROMPTS, carrying: float = LEAST_CARRYING
) -> tuple[float, float, str]:
    """Offsets of both ends from the estimate, and why there are none (both NaN) or an empty text."""
    from scipy.special import stdtrit

    units = min(spread.units for spread in spreads)
    if units < least:
        return np.nan, np.nan, few(units, least)
    variance = sum(spread.variance for spread in spreads)
    error = float(np.sqrt(variance))
    if error <= _ROUNDING * max(spread.size for spread in spreads):
        return np.nan, np.nan, ALL_EQUAL
    if any(spread.carrying < carrying for spread in spreads):
        return np.nan, np.nan, FEW_CARRY
    freedom = variance**2 / sum(spread.variance**2 / (spread.units - 1) for spread in spreads)
    quantile = float(stdtrit(freedom, (1 + level) / 2))
    skewness = sum(spread.third * (1 + _UNSEEN / spread.units) for spread in spreads) / error**3
    low, high = (-error * max(quantile, sign * _hall(sign * quantile, skewness)) for sign in (1, -1))
    return low, -high, ""


def _hall(quantile: float, r: float) -> float:
    """The inverse of Hall's transformation."""
    if abs(r) < 1e-6:  # the limit, to within rounding
        return quantile
    return float(3 / r * (np.cbrt(1 + r * (quantile - r / 6)) - 1))
