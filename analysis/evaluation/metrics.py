"""Training curves: the table `evals` of a run as one row per evaluation, each metric over the same prompts throughout.

Evaluations during training use fewer prompts than those at the start and the end, so `curves` keeps the prompts that
are present at every evaluation, and `final` gives start and end on all prompts that those two share.

A metric is a value per prompt and a rule to put prompts together: the mean, the geometric mean (effective_solutions)
or the standard deviation (p_std; Pass@k at given Pass@1 depends on the spread of p over prompts and nothing else).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from toy_models.messages import nearest

from ..errors import UsageError
from .passk import K_GRID, pass_at_k, pass_at_k_exact

__all__ = ["EXACT_P", "METRICS", "HasTables", "Metric", "Panel", "curves", "evals_of", "final", "get_metric"]


class HasTables(Protocol):
    """What an evaluation reads of a run: its tables; `analysis.records.Run` is one."""

    def table(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Metric:
    """A number per prompt and the rule that puts prompts together.

    Attributes:
        name: in `METRICS` and in tables.
        values: one number per row of `evals`, NaN where it does not exist.
        combine: how prompts are put together.
        success: whether the numbers are success probabilities, or estimates of them, whose range [0, 1] is used.
    """

    name: str
    values: Callable[[pd.DataFrame], np.ndarray]
    combine: Literal["mean", "geometric", "std"] = "mean"
    success: bool = False

    def over_prompts(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Join the last axis of `values` (…, n) under each row of `weights` (m, n), which sum to 1: (…, m)."""
        if self.combine == "geometric":
            return np.exp(np.log(values) @ weights.T)
        mean = values @ weights.T
        if self.combine == "mean":
            return mean
        centre = values.mean(axis=-1, keepdims=True)  # centred first, or a small spread would be lost to rounding
        around = (values - centre) @ weights.T
        return np.sqrt(np.maximum(((values - centre) ** 2) @ weights.T - around**2, 0.0))

    def influence(self, values: np.ndarray) -> np.ndarray:
        """Of each prompt (n,) on the joined value, or on its logarithm unless prompts are joined by their mean."""
        if self.combine == "mean":
            return values
        if self.combine == "geometric":
            return np.log(values)
        deviations = (values - values.mean()) ** 2
        return deviations / (2 * deviations.sum() / (len(values) - 1)) if deviations.any() else deviations


def _column(name: str) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda rows: rows[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _share(rows: pd.DataFrame) -> np.ndarray:
    return _column("c")(rows) / _column("n")(rows)


def _p_outside(rows: pd.DataFrame) -> np.ndarray:
    """Success probability given any other mode than the task's own: (p − mass·p_mode) / (1 − mass)."""
    p, mass, p_mode = (_column(name)(rows) for name in ("p", "mode_mass", "mode_p"))
    outside = 1.0 - mass
    joint = np.where(mass == 0.0, 0.0, mass * p_mode)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(outside > 0.0, np.clip((p - joint) / outside, 0.0, 1.0), np.nan)


def _fully_solved(rows: pd.DataFrame) -> np.ndarray:
    share = _share(rows)
    return np.where(np.isnan(share), np.nan, share == 1.0)


def _pass_at(k: int) -> Callable[[pd.DataFrame], np.ndarray]:
    """Exact where p was enumerated, else the unbiased estimate where enough samples were drawn, else NaN."""

    def values(rows: pd.DataFrame) -> np.ndarray:
        p, n, c = (_column(name)(rows) for name in ("p", "n", "c"))
        out = np.full(len(rows), np.nan)
        exact = ~np.isnan(p)
        out[exact] = pass_at_k_exact(p[exact], k)
        estimated = ~exact & (n >= k)
        out[estimated] = pass_at_k(n[estimated], c[estimated], k)
        return out

    return values


EXACT_P = Metric("p", _column("p"))
# What can be compared at matched points, by name; `curves`, `final` and `matched` take these names.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Metric(f"pass@{k}", _pass_at(k), success=True) for k in K_GRID),
        Metric("p_std", _column("p"), "std"),
        Metric("entropy_fixed", _column("entropy_fixed")),
        Metric("entropy_own", _column("entropy_own")),
        Metric("tail_mass", _column("tail_mass")),
        Metric("effective_solutions", _column("effective_solutions"), "geometric"),
        Metric("log_effective_solutions", lambda rows: np.log(_column("effective_solutions")(rows))),
        Metric("mode_mass", _column("mode_mass"), success=True),
        Metric("mode_p", _column("mode_p"), success=True),
        Metric("outside_p", _p_outside, success=True),
        Metric("greedy_accuracy", _column("greedy_correct"), success=True),
        Metric("correct_ratio", _share, success=True),
        Metric("fully_solved_ratio", _fully_solved, success=True),
    )
}


def get_metric(name: str) -> Metric:
    """A metric by name: one of `METRICS`, or pass@k for any k.

    Raises:
        UsageError: an unknown name.

    Example:
        >>> get_metric("pass@3").combine
        'mean'
    """
    if name in METRICS:
        return METRICS[name]
    kind, _, k = name.partition("@")
    if kind == "pass" and k.isdecimal() and int(k) > 0:
        return Metric(name, _pass_at(int(k)), success=True)
    raise UsageError(f"metric: unknown {name!r}; {nearest(name, METRICS)}")


def evals_of(run: HasTables | pd.DataFrame) -> pd.DataFrame:
    """The table `evals` of a run. Raises UsageError where nothing was evaluated."""
    rows = run if isinstance(run, pd.DataFrame) else run.table("evals")
    if rows.empty:
        raise UsageError("run: expected evaluations, got an empty table evals; was it interrupted before the first?")
    return rows


@dataclass(frozen=True)
class Panel:
    """Rows of one split and one set of sampling parameters: the same prompts, in the same order, at every step."""

    steps: np.ndarray  # (E,)
    updates: np.ndarray  # (E,)
    prompt_ids: tuple[str, ...]
    rows: pd.DataFrame  # E blocks of len(prompt_ids) rows

    @classmethod
    def of(cls, rows: pd.DataFrame, prompt_ids: Iterable[str] | None = None) -> Panel:
        """Keep `prompt_ids`, or the prompts present at every step. Raises UsageError where there are none."""
        at_step = [set(group) for _, group in rows.groupby("step")["prompt_id"]]
        common = set.intersection(*at_step) if at_step else set()
        kept = sorted(common if prompt_ids is None else common & set(prompt_ids))
        if not kept:
            raise UsageError(
                f"run: expected prompts that are present at each of {len(at_step)} evaluations, got none; "
                "evaluate the same prompts throughout"
            )
        rows = rows[rows["prompt_id"].isin(kept)].sort_values(["step", "prompt_id"], ignore_index=True)
        first = rows.groupby("step")["update"].first()
        return cls(first.index.to_numpy(), first.to_numpy(), tuple(kept), rows)

    def values(self, metric: Metric) -> np.ndarray:
        """(E, n_prompts)"""
        return metric.values(self.rows).reshape(len(self.steps), len(self.prompt_ids))


def curves(run: HasTables | pd.DataFrame) -> pd.DataFrame:
    """Every metric of `METRICS` at each evaluation of a run.

    Only prompts that are present at every evaluation count.

    Args:
        run: a run, or its table `evals`.

    Returns:
        One row per split, sampling parameters (temperature, top_p, top_k) and evaluation, with the columns step,
        update, prompts (their number) and each metric; NaN where a metric does not exist. Prompts without correct
        responses have no effective_solutions and are left out of it.

    Raises:
        UsageError: nothing was evaluated, or no prompt is present at every evaluation.
    """
    return _curves(evals_of(run))


def final(run: HasTables | pd.DataFrame) -> pd.DataFrame:
    """`curves` of the first and the last evaluation alone, over all prompts that these two share.

    Evaluations during training use fewer prompts than those at the start and the end, so these rows are more precise.
    """
    rows = evals_of(run)
    return _curves(rows[rows["step"].isin((rows["step"].min(), rows["step"].max()))])


def _curves(evals: pd.DataFrame) -> pd.DataFrame:
    parts = []
    key = ["split", "temperature", "top_p", "top_k"]
    for group, rows in evals.groupby(key, sort=True):
        panel = Panel.of(rows)
        columns: dict[str, Any] = {
            **dict(zip(key, group, strict=True)),
            "step": panel.steps,
            "update": panel.updates,
            "prompts": len(panel.prompt_ids),
        }
        for name, metric in METRICS.items():
            values = panel.values(metric)
            exists = ~np.isnan(values).any(axis=0)
            share = exists[None] / max(1, exists.sum())
            columns[name] = metric.over_prompts(values[:, exists], share[:, exists])[:, 0] if exists.any() else np.nan
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
