"""Means with 95% intervals, over prompts where a method has one seed and over seeds where it has several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..evaluation import Interval, interval

__all__ = ["band"]


def band(data: pd.DataFrame, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Mean of `column` with its interval for each method (`label`) and each value of the columns `by`.

    `data` has one row for each unit (a prompt, say) of each seed: columns `label`, `seed`, `by` and `column`; rows with
    a missing value do not count. Where a method has several seeds, the interval is Student's over the seeds' means,
    since the seed is what was drawn anew; else it is over units: Wilson's for a yes or no, Student's for a number. It
    is missing for a single number. Columns: label, by, value, low, high.
    """
    rows = []
    for key, group in data.dropna(subset=[column]).groupby(["label", *by], sort=False):
        rows.append((*key, *_over(group, column)))
    return pd.DataFrame(rows, columns=["label", *by, "value", "low", "high"])


def _over(group: pd.DataFrame, column: str) -> tuple[float, float, float]:
    values = group[column].to_numpy()
    seeds = group["seed"].to_numpy()
    several = np.unique(seeds)
    if len(several) > 1:
        found = interval([values[seeds == seed].mean() for seed in several], over="seeds")
    elif values.dtype.kind == "b":
        found = interval(values, method="wilson")
    elif len(values) > 1:
        found = interval(values, method="t")
    else:
        found = Interval(float(values[0]), np.nan, np.nan)
    return found.estimate, found.low, found.high
