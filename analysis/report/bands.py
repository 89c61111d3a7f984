"""Means with 95% intervals, over prompts where a method has one seed and over seeds where it has several; and ratios of
sums with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..evaluation import Interval, interval
from ..evaluation.influence import Spread
from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import Method, smooth

__all__ = ["band", "ratio"]


def band(data: pd.DataFrame, by: Sequence[str], column: str = "value", method: Method | None = None) -> pd.DataFrame:
    """Mean of `column` with its interval for each method (`label`) and each value of the columns `by`.

    `data` has one row for each unit (a prompt, say) of each seed: columns `label`, `seed`, `by` and `column`; rows with
    a missing value do not count. Where a method has several seeds, the interval is Student's over the seeds' means,
    since the seed is what was drawn anew; else it is over units: that of a proportion for a yes or no, for a number
    that of `method`, as in `interval`. It is missing, with a reason, where none covers. Columns: label, by, value, low,
    high, kind, reason.
    """
    keys = ["label", *by]
    data = data.dropna(subset=[column])
    values, seeds = data[column].to_numpy(), data["seed"].to_numpy()
    places = data.groupby(keys, sort=False).indices
    rows = [
        (*(key if isinstance(key, tuple) else (key,)), *_mean(values[at], seeds[at], method))
        for key, at in places.items()
    ]
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "kind", "reason"])


def _mean(values: np.ndarray, seeds: np.ndarray, method: Method | None) -> tuple[float, float, float, str, str]:
    several = np.unique(seeds)
    if len(several) > 1:
        mean = interval([values[seeds == seed].mean() for seed in several], over="seeds")
    elif values.dtype.kind == "b":
        mean = interval(values, method="proportion")
    else:
        mean = interval(values, method=method)
    return mean.estimate, mean.low, mean.high, str(mean.kind), mean.reason


def ratio(units: np.ndarray, above: np.ndarray, below: np.ndarray) -> Interval:
    """Σ above / Σ below over rows, with its interval over the units that rows belong to.

    Rows of a unit (a prompt) hang together, so the influence is that of whole units. A ratio of parts to a whole, which
    lies between 0 and 1 for each row, keeps its interval there.

    >>> ratio(np.array([0, 0, 1, 2]), np.array([1.0, 1.0, 4.0, 6.0]), np.ones(4)).estimate
    3.0
    """
    whole = float(below.sum())
    estimate = float(above.sum()) / whole
    influence = _by_unit(units, (above - estimate * below) / whole)
    found = smooth(estimate, [Spread.of(influence, abs(estimate))], Kind.PROMPT_RATIO)
    if ((above >= 0) & (above <= below)).all():
        return Interval(estimate, max(found.low, 0.0), min(found.high, 1.0), found.kind, found.reason)
    return found


def _by_unit(units: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums of rows (n,) by unit, times the number of units: the influence of each on a sum over all rows."""
    _, place = np.unique(units, return_inverse=True)
    sums = np.bincount(place, weights=rows)
    scaled: np.ndarray = len(sums) * sums
    return scaled
