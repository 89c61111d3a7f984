"""Where a ratio that was measured on policies of several success probabilities passes through one.

Policies of equal accuracy differ, so the points scatter around their curve by more than their errors. The log ratio of
policy i is taken as f(x_i) + u_i + ε_i with x = log(p/(1 − p)), f a line (a parabola from seven policies), u_i drawn
for each policy with a common variance τ², and ε_i its measured error. For PSR and NSR a line of slope −1 is what equal
squared scores of right and wrong responses give. τ² is Paule and Mandel's estimate (1982, J. Res. Natl. Bur. Stand.
87:377), f follows by weighted least squares, its covariance is inflated where the residuals ask for it (Knapp and
Hartung 2003, Stat. Med. 22:2693), and the interval is Fieller's: every p at which f is within t standard errors of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..common.arguments import check_numbers
from ..errors import UsageError
from .influence import few
from .interval_kinds import LEAST_BASES, Kind
from .intervals import student_quantile

__all__ = ["Crossing", "crossing", "crossing_by_task"]

_PARABOLA = 7  # policies, from which f bends
_GRID = 4001  # points between the least and the greatest x
_EXACT = 1e-18  # least variance of a point: measured without error


@dataclass(frozen=True)
class Crossing:
    """Where a ratio first passes one.

    Attributes:
        at: the success probability; None where the ratio does not pass one within what was measured.
        low: lower end of the 95% interval; None where it lies beyond what was measured.
        high: upper end, likewise.
        kind: of the interval, one of `Kind`.
        reason: why there is no interval; empty where there is one.
    """

    at: float | None
    low: float | None
    high: float | None
    kind: str = Kind.CROSSING
    reason: str = ""

    def words(self) -> str:
        """The crossing of NSR's variance with PSR's as a sentence.

        >>> Crossing(0.7, 0.65, None).words()
        'the variance of NSR is that of PSR at p = 0.700 (95% interval 0.650 to beyond)'
        """
        if self.at is None:
            return "the variances of NSR and PSR do not meet within these success probabilities"
        ends = " to ".join("beyond" if end is None else f"{end:.3f}" for end in (self.low, self.high))
        uncertainty = f"no interval: {self.reason}" if self.reason else f"95% interval {ends}"
        return f"the variance of NSR is that of PSR at p = {self.at:.3f} ({uncertainty})"


def crossing(p: ArrayLike, ratio: ArrayLike, ratio_se: ArrayLike, *, level: float = 0.95) -> Crossing:
    """The first p at which the fitted log ratio is 0, going up in p within what was measured.

    Args:
        p: success probabilities, in any order, each of one policy.
        ratio: the ratio of each.
        ratio_se: its standard error.
        level: of the interval.

    Returns:
        The crossing. Its interval is for the mean over policies such as these, and needs four.

    Raises:
        UsageError: unequal lengths, fewer than two different p, p not strictly between 0 and 1, or ratios that are not
            finite and positive.

    Example:
        >>> round(crossing([0.2, 0.5, 0.8], [16.0, 4.0, 1.0], [0.0, 0.0, 0.0]).at, 6)
        0.8
    """
    given = {"p": p, "ratio": ratio, "ratio_se": ratio_se}
    at, values, errors = (check_numbers(name, numbers) for name, numbers in given.items())
    if not at.shape == values.shape == errors.shape or at.ndim != 1 or not at.size:
        raise UsageError(
            f"crossing: expected three equally long lists of numbers, got shapes {at.shape}, "
            f"{values.shape}, {errors.shape}"
        )
    if not (np.isfinite(values).all() and np.isfinite(errors).all() and (values > 0).all()):
        raise UsageError("ratio: expected finite positive numbers; leave out points without a value")
    if not ((at > 0) & (at < 1)).all() or len(np.unique(at)) < 2:
        raise UsageError(
            f"p: expected at least two different numbers strictly between 0 and 1, got {np.unique(at).tolist()}; "
            "leave out policies that always or never succeed"
        )
    x, y = np.log(at) - np.log1p(-at), np.log(values)
    middle = x.mean()
    degree = 2 if len(x) >= _PARABOLA and len(np.unique(at)) > 3 else 1
    terms = np.vander(x - middle, degree + 1, increasing=True)
    coefficients, covariance = _random_effects(terms, y, (errors / values) ** 2)
    grid = np.linspace(x.min(), x.max(), _GRID)
    on_grid = np.vander(grid - middle, degree + 1, increasing=True)
    fitted = on_grid @ coefficients
    zero = _first_zero(grid, fitted)
    where = None if zero is None else _probability(zero)
    if len(np.unique(at)) < LEAST_BASES:
        return Crossing(
            where, None, None, reason=few(len(np.unique(at)), LEAST_BASES, "policies of different accuracy")
        )
    error = np.sqrt(np.einsum("ij,jk,ik->i", on_grid, covariance, on_grid))
    half = student_quantile(len(x) - degree - 1, level) * error
    low, high = _held(grid, np.abs(fitted) - half, zero)
    return Crossing(where, None if low is None else _probability(low), None if high is None else _probability(high))


def crossing_by_task(frame: pd.DataFrame) -> dict[str, Crossing]:
    """For each task with several measurements (rows of `GradientNoise.frame()` with a column `task`), where
    `noise_ratio` of NSR passes one."""
    rows = frame[(frame["estimator"] == "NSR") & (frame["noise_ratio"] > 0) & (frame["p"] > 0) & (frame["p"] < 1)]
    return {
        str(task): crossing(part["p"], part["noise_ratio"], part["noise_ratio_se"])
        for task, part in rows.groupby("task", sort=False)
        if part["p"].nunique() > 1
    }


def _random_effects(terms: np.ndarray, y: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and their covariance for y = terms @ β + u + ε, Var ε given and Var u by Paule and Mandel."""
    from scipy.optimize import brentq

    freedom = len(y) - terms.shape[1]
    fit = _weighted(terms, y)
    between = 0.0
    if freedom > 0 and fit(np.maximum(variance, _EXACT))[2] > freedom:

        def excess(tau_sq: float) -> float:
            return fit(np.maximum(variance + tau_sq, _EXACT))[2] - freedom

        top = 1.0
        while excess(top) > 0:
            top *= 4
        between = float(brentq(excess, 0.0, top))
    coefficients, covariance, chi_sq = fit(np.maximum(variance + between, _EXACT))
    return coefficients, covariance * max(1.0, chi_sq / freedom if freedom > 0 else 1.0)


def _weighted(terms: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, float]]:
    def fit(variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        weighted = terms.T / variance
        covariance = np.linalg.inv(weighted @ terms)
        coefficients = covariance @ (weighted @ y)
        residuals = y - terms @ coefficients
        return coefficients, covariance, float((residuals**2 / variance).sum())

    return fit


def _first_zero(x: np.ndarray, y: np.ndarray) -> float | None:
    """The first zero of the polygon through (x, y)."""
    places = np.flatnonzero((y[:-1] * y[1:] < 0) | (y[:-1] == 0))
    if len(places):
        i = int(places[0])
        return float(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1])) if y[i] else float(x[i])
    return float(x[-1]) if y[-1] == 0 else None


def _held(x: np.ndarray, outside: np.ndarray, zero: float | None) -> tuple[float | None, float | None]:
    """Ends of the stretch with outside ≤ 0 around `zero` (of all such where there is none); None beyond the grid."""
    held = outside <= 0
    if zero is None:
        places = np.flatnonzero(held)
        if not len(places):
            return None, None
        first, last = int(places[0]), int(places[-1])
    else:
        middle = int(np.abs(x - zero).argmin())
        if not held[middle]:  # narrower than the grid
            return zero, zero
        apart = np.flatnonzero(~held)
        below, above = apart[apart < middle], apart[apart > middle]
        first, last = int(below[-1]) + 1 if len(below) else 0, int(above[0]) - 1 if len(above) else len(x) - 1
    low = None if first == 0 else _between(x, outside, first - 1)
    high = None if last == len(x) - 1 else _between(x, outside, last)
    return low, high


def _between(x: np.ndarray, y: np.ndarray, i: int) -> float:
    return float(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1]))


def _probability(x: float) -> float:
    from scipy.special import expit

    return float(expit(x))
