"""Means with 95% intervals, over prompts where a method has one seed and over seeds where it has several; and
statistics of sums with an interval over prompts by the jackknife."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ..evaluation import Interval, interval

__all__ = ["band", "jackknife"]


def band(data: pd.DataFrame, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Mean of `column` with its interval for each method (`label`) and each value of the columns `by`.

    `data` has one row for each unit (a prompt, say) of each seed: columns `label`, `seed`, `by` and `column`; rows with
    a missing value do not count. Where a method has several seeds, the interval is Student's over the seeds' means,
    since the seed is what was drawn anew; else it is over units: Wilson's for a yes or no, Student's for a number. It
    is missing for a single number. Columns: label, by, value, low, high.
    """
    keys = ["label", *by]
    data = data.dropna(subset=[column])
    values, seeds = data[column].to_numpy(), data["seed"].to_numpy()
    places = data.groupby(keys, sort=False).indices
    rows = [(*(key if isinstance(key, tuple) else (key,)), *_mean(values[at], seeds[at])) for key, at in places.items()]
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high"])


def _mean(values: np.ndarray, seeds: np.ndarray) -> tuple[float, float, float]:
    several = np.unique(seeds)
    if len(several) > 1:
        mean = interval([values[seeds == seed].mean() for seed in several], over="seeds")
    elif values.dtype.kind == "b":
        mean = interval(values, method="wilson")
    elif len(values) > 1:
        mean = interval(values, method="t")
    else:
        mean = Interval(float(values[0]), np.nan, np.nan)
    return mean.estimate, mean.low, mean.high


def jackknife(units: np.ndarray, sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A statistic of column sums, `statistic` of (…, m) -> (…), with its 95% interval over units of rows.

    `sums` (n, m) are the terms of each row. Rows of a unit (a prompt) hang together, so whole units are left out, one
    at a time (Efron and Stein 1981, Ann. Statist. 9:586; Student's t on the number of units less one). One unit has no
    interval.

    >>> total = jackknife(np.array([0, 0, 1, 2]), np.array([[1.0], [1.0], [4.0], [6.0]]), lambda s: s[..., 0])
    >>> total.estimate
    12.0
    """
    by_unit = pd.DataFrame(sums).groupby(units).sum().to_numpy()
    estimate, k = float(statistic(sums.sum(0))), len(by_unit)
    if k < 2:
        return Interval(estimate, np.nan, np.nan)
    without = statistic(by_unit.sum(0) - by_unit)
    half = float(stdtrit(k - 1, 0.975) * np.sqrt((k - 1) / k * ((without - without.mean()) ** 2).sum()))
    return Interval(estimate, estimate - half, estimate + half)
