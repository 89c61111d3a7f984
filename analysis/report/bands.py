"""Means with 95% intervals, over prompts where a method has one seed and over seeds where it has several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm as normal
from scipy.stats import t as student

__all__ = ["LEVEL", "band"]

LEVEL = 0.95


def band(data: pd.DataFrame, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Mean of `column` with its interval for each method (`label`) and each value of the columns `by`.

    `data` has one row for each unit (a prompt, say) of each seed: columns `label`, `seed`, `by` and `column`; rows with
    a missing value do not count. Where a method has several seeds, the interval is Student's over the seeds' means,
    since the seed is what was drawn anew; else it is over units: Wilson's for a yes or no, Student's for a number. It
    is missing for a single number. Columns: label, by, value, low, high.
    """
    keys = ["label", *by]
    data = data.dropna(subset=[column])
    binary = data[column].dtype.kind == "b"
    several = data.groupby("label", sort=False)["seed"].transform("nunique") > 1
    means = data[several].groupby([*keys, "seed"], sort=False, as_index=False)[column].mean()
    units = pd.concat([frame[[*keys, column]].astype({column: float}) for frame in (data[~several], means)])
    out = units.groupby(keys, sort=False)[column].agg(["mean", "std", "count"]).reset_index()
    mean, deviation, count = (out[name].to_numpy(float) for name in ("mean", "std", "count"))
    low, high = _student(mean, deviation, count)
    if binary:
        alone = ~out["label"].isin(means["label"].unique()).to_numpy()
        low, high = (np.where(alone, *ends) for ends in zip(_wilson(mean, count), (low, high), strict=True))
    return out[keys].assign(value=mean, low=low, high=high)


def _student(mean: np.ndarray, deviation: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = student.ppf((1 + LEVEL) / 2, np.maximum(count - 1, 1)) * deviation / np.sqrt(count)
    return mean - half, mean + half


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score interval of a binomial proportion (Wilson 1927), which stays inside [0, 1]."""
    z = normal.ppf((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half
