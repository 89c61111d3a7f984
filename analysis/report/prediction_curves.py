"""Data of the picture of prediction and outcome: how much of what updates did the first order explains, and whose
gradients the prediction came from.

The prediction is the JVP of the actual parameter step. It takes step and parameters as they were; what it leaves
unexplained is the curvature of the policy along the step, not a fault of the law of single tokens.

Intervals are 95%. With several seeds they are Student's over the seeds' values; those of 1 − R² are computed for its
logarithm, which keeps them positive. With one seed shares have theirs over prompts with all their contexts
(`bands.ratio`), and 1 − R² has none: single contexts with large steps carry most of it, and no interval over prompts
covers where they do (docs/intervals.md). Realised changes that are all equal have no R².
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..evaluation import Interval, interval
from ..evaluation.intervals import no_interval
from ..records.step_shares import view
from .bands import ratio

__all__ = [
    "QUANTITIES",
    "early_and_late",
    "median_relative_error",
    "shares_over_time",
    "unexplained",
    "unexplained_between",
]

POINTS = 6  # of a curve over updates
LEAST = 1e-9  # of 1 − R²: records are float32
EQUAL = 1e-12  # of the mean square: changes with less variance are all equal, and have no R²
ONE_SEED = "single contexts carry most of 1 − R², and no interval over prompts covers then"
# column of `Run.flows` -> how figures and tables name it
QUANTITIES = {"dlog_prob": "log π(y)", "dentropy": "entropy"}


def unexplained(flows: pd.DataFrame) -> pd.DataFrame:
    """1 − R² of the JVP over training: columns label, quantity, update, value, low, high.

    `flows` are those of `token_pictures.FlowData`. Successive updates with a JVP are taken together, to `POINTS`
    points at most; `update` is their mean.
    """
    rows = [
        (label, name, update, fraction.estimate, fraction.low, fraction.high)
        for label, update, window in _windows(_with_jvp(flows))
        for column, name in QUANTITIES.items()
        for fraction in [unexplained_between(window, column)]
    ]
    return pd.DataFrame(rows, columns=["label", "quantity", "update", "value", "low", "high"])


def unexplained_between(rows: pd.DataFrame, column: str) -> Interval:
    """1 − R² of the JVP of a quantity of `QUANTITIES` over some rows of one method's flows (those that have one)."""
    rows = _with_jvp(rows)
    seeds = rows["seed"].to_numpy()
    if len(np.unique(seeds)) > 1:
        fraction = _over_seeds([_log_unexplained(rows[seeds == seed], column) for seed in np.unique(seeds)])
    else:
        fraction = no_interval(_log_unexplained(rows, column), ONE_SEED)
    low, value, high = (float(np.exp(end)) for end in (fraction.low, fraction.estimate, fraction.high))
    return Interval(value, low, high, fraction.kind, fraction.reason)


def _log_unexplained(rows: pd.DataFrame, column: str) -> float:
    """log(1 − R²); NaN where the changes are all equal."""
    realised, predicted = rows[column].to_numpy(float), rows[f"jvp_{column}"].to_numpy(float)
    deviations = (realised - realised.mean()) ** 2 if len(rows) else realised
    if deviations.sum() <= EQUAL * (realised**2).sum():
        return np.nan
    return float(np.log(max(((realised - predicted) ** 2).sum() / deviations.sum(), LEAST)))


def median_relative_error(rows: pd.DataFrame, column: str) -> float:
    """Median over contexts of |realised − JVP| / |realised|; NaN where no update recorded a JVP."""
    rows = _with_jvp(rows)
    realised, predicted = rows[column].to_numpy(float), rows[f"jvp_{column}"].to_numpy(float)
    changed = realised != 0
    return (
        float(np.median(np.abs(realised - predicted)[changed] / np.abs(realised[changed]))) if changed.any() else np.nan
    )


def shares_over_time(flows: pd.DataFrame, column: str = "dlog_prob") -> pd.DataFrame:
    """Projected shares of the JVP (as in `Run.shares_summary`) over training: columns label, contexts (rewarded,
    unrewarded, panel), part, update, value, low, high.

    Parts: pos, neg, reg and decay of the view by source, which add to one, and history of the view by time. Parts that
    a method never had are left out.
    """
    known = np.array([np.isfinite(parts).all() for parts in flows[f"jvp_{column}_shares"]], dtype=bool)
    chosen = flows[known]
    sign = chosen["sign"].astype(float).fillna(0.0)
    chosen = chosen.assign(
        contexts=np.select([chosen["kind"] == "panel", sign > 0], ["panel", "rewarded"], "unrewarded")
    )
    out = []
    for label, update, window in _windows(chosen):
        for contexts, rows in window.groupby("contexts"):
            whole, parts = rows[f"jvp_{column}"].to_numpy(float), np.stack(rows[f"jvp_{column}_shares"].tolist())
            read = view(parts, "source") | {"history": view(parts, "time")["history"]}
            for part, values in read.items():
                if values.any():
                    fraction = _share(rows, values * whole, whole**2)
                    out.append((label, contexts, part, update, fraction.estimate, fraction.low, fraction.high))
    return pd.DataFrame(out, columns=["label", "contexts", "part", "update", "value", "low", "high"])


def early_and_late(flows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One method's flows with a JVP in the first and in the last third of the updates that have one (at least one)."""
    rows = _with_jvp(flows)
    updates = np.sort(rows["update"].unique())
    third = max(1, len(updates) // 3)
    return rows[rows["update"].isin(updates[:third])], rows[rows["update"].isin(updates[-third:])]


def _with_jvp(flows: pd.DataFrame) -> pd.DataFrame:
    return flows[flows["jvp_dlog_prob"].notna()]


def _windows(rows: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """(label, mean update, rows) of successive updates of each method, as many together as leave `POINTS` points."""
    for label, flows in rows.groupby("label", sort=False):
        updates = np.sort(flows["update"].unique())
        for together in np.array_split(updates, min(POINTS, len(updates))):
            yield str(label), float(together.mean()), flows[flows["update"].isin(together)]


def _share(rows: pd.DataFrame, part: np.ndarray, whole: np.ndarray) -> Interval:
    """Σ part / Σ whole with its interval, over seeds where there are several and else over prompts."""
    seeds = rows["seed"].to_numpy()
    if len(np.unique(seeds)) > 1:
        return _over_seeds([_quotient(part[seeds == seed], whole[seeds == seed]) for seed in np.unique(seeds)])
    if not whole.any():
        return no_interval(np.nan, "nothing changed")
    return ratio(rows["prompt_id"].to_numpy(), part, whole)


def _quotient(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else np.nan


def _over_seeds(values: list[float]) -> Interval:
    if not np.isfinite(values).all():
        return no_interval(np.nan, "a seed has no value")
    return interval(values, over="seeds")
