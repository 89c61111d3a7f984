"""Where a ratio that was measured at several success probabilities passes through one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import UsageError
from .intervals import normal_quantile

__all__ = ["Crossing", "crossing", "crossing_by_task"]


@dataclass(frozen=True)
class Crossing:
    """Where a ratio first passes one.

    Attributes:
        at: the success probability; None where the ratio does not pass one within what was measured.
        low: lower end of the 95% interval; None where it lies beyond what was measured.
        high: upper end, likewise.
    """

    at: float | None
    low: float | None
    high: float | None

    def words(self) -> str:
        """The crossing of NSR's variance with PSR's as a sentence.

        >>> Crossing(0.7, 0.65, None).words()
        'the variance of NSR is that of PSR at p = 0.700 (95% interval 0.650 to beyond)'
        """
        if self.at is None:
            return "the variances of NSR and PSR do not meet within these success probabilities"
        ends = " to ".join("beyond" if end is None else f"{end:.3f}" for end in (self.low, self.high))
        return f"the variance of NSR is that of PSR at p = {self.at:.3f} (95% interval {ends})"


def crossing(p: ArrayLike, ratio: ArrayLike, ratio_se: ArrayLike) -> Crossing:
    """The first p at which log ratio, joined by straight lines between the points, is 0, going up in p.

    The interval holds every p from the first to the last at which the pointwise 95% band of log ratio
    (± 1.96·ratio_se/ratio) includes 0. An end is None where the band still includes 0 at the outermost point. The
    errors are those of the points given: how bases of equal p differ from each other is not in them.

    Args:
        p: success probabilities, in any order.
        ratio: the ratio at each of them.
        ratio_se: its standard error.

    Raises:
        UsageError: unequal lengths, or values that are not finite and positive.

    Example:
        >>> round(crossing([0.2, 0.6, 0.8], [4.0, 2.0, 0.5], [0.0, 0.0, 0.0]).at, 12)
        0.7
    """
    at, values, errors = (np.asarray(numbers, dtype=float) for numbers in (p, ratio, ratio_se))
    if not at.shape == values.shape == errors.shape or at.ndim != 1 or not at.size:
        raise UsageError(
            f"crossing: expected three equally long lists of numbers, got shapes {at.shape}, "
            f"{values.shape}, {errors.shape}"
        )
    if not (np.isfinite(at).all() and np.isfinite(values).all() and np.isfinite(errors).all() and (values > 0).all()):
        raise UsageError("ratio: expected finite positive numbers at finite p; leave out points without a value")
    order = np.argsort(at, kind="stable")
    at, height, half = at[order], np.log(values[order]), (normal_quantile() * errors / values)[order]
    zeros = _zeros(at, height)
    edges = sorted(_zeros(at, height - half) + _zeros(at, height + half))
    inside = (np.abs(height) <= half)[[0, -1]].tolist()
    return Crossing(
        zeros[0] if zeros else None,
        None if inside[0] or not edges else edges[0],
        None if inside[1] or not edges else edges[-1],
    )


def crossing_by_task(frame: pd.DataFrame) -> dict[str, Crossing]:
    """For each task with several measurements (rows of `GradientNoise.frame()` with a column `task`), where
    `noise_ratio` of NSR passes one."""
    rows = frame[(frame["estimator"] == "NSR") & (frame["noise_ratio"] > 0)]
    return {
        str(task): crossing(part["p"], part["noise_ratio"], part["noise_ratio_se"])
        for task, part in rows.groupby("task", sort=False)
        if part["p"].nunique() > 1
    }


def _zeros(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Zeros of the polygon through (x, y), ascending; one that is a corner counts once."""
    at = x[y == 0]
    i = np.flatnonzero(y[:-1] * y[1:] < 0)
    between = x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1])
    return sorted([*at.tolist(), *between.tolist()])
