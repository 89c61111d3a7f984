"""Data of the curves of an experiment: dynamics over steps, and Pass@k at the end, on held-out prompts.

Only prompts count that every evaluation of every run has: during training fewer are evaluated than at the end, and a
mean over other prompts is another quantity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..evaluation import K_GRID, METRICS, SamplingParams, interval
from ..evaluation.influence import Spread
from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import Interval, smooth, success
from ..plots import BASE
from .bands import band

if TYPE_CHECKING:
    from ..records import Run

__all__ = [
    "against_pass_at_1",
    "evaluations",
    "pass_at_1",
    "pass_at_k_curves",
    "rollout_groups",
    "samples_per_prompt",
]


def pass_at_1(runs: Sequence[Run], split: str = "validation") -> pd.DataFrame:
    """Pass@1 on the prompts of a split at each evaluation: columns label, step, value, low, high."""
    rows = evaluations(runs, split)
    return band(rows.assign(value=METRICS["pass@1"].values(rows)), ["step"], method="success")


def against_pass_at_1(runs: Sequence[Run], column: str) -> pd.DataFrame:
    """A column of `evals` on the test prompts beside Pass@1 on the validation prompts of the same evaluation: columns
    label, step, reached, value, low, high."""
    data = band(evaluations(runs, "test"), ["step"], column)
    reached = pass_at_1(runs).set_index(["label", "step"])["value"].rename("reached")
    return data.join(reached, on=["label", "step"])


def evaluations(runs: Sequence[Run], split: str) -> pd.DataFrame:
    """Rows of `evals` of a split at each run's first sampling parameters, with label and seed, common prompts only."""
    parts = []
    for run in runs:
        part = run.table("evals", where=[("split", "==", split)])
        part = SamplingParams.all_in(part)[0].rows(part) if len(part) else part
        parts.append(part.assign(run_id=run.run_id, label=run.label, seed=run.seed))
    rows = pd.concat(parts)
    seen = rows.groupby("prompt_id")["step"].size()
    evaluated = len(rows[["run_id", "step"]].drop_duplicates())
    return rows[rows["prompt_id"].isin(seen.index[seen == evaluated])]


def rollout_groups(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each group of rollouts: label, seed, step, `correct` (fraction) and `solved` (whether all are). Runs
    that did not record every rollout give their steps' means instead, which have no interval."""
    parts = []
    for run in runs:
        steps = run.table("steps", ["step", "n_rollouts", "correct_ratio", "fully_solved_ratio"])
        if run.rows("rollouts") == steps["n_rollouts"].sum():
            groups = run.table("rollouts", ["step", "group", "correct"]).groupby(["step", "group"])["correct"]
            part = groups.agg(correct="mean", solved="all").reset_index()
        else:
            part = steps.rename(columns={"correct_ratio": "correct", "fully_solved_ratio": "solved"})
        parts.append(part.assign(label=run.label, seed=run.seed))
    return pd.concat(parts, ignore_index=True)


def samples_per_prompt(evals: Iterable[pd.DataFrame]) -> int | None:
    """How many samples Pass@k is estimated from, the fewest of any run; None where success was enumerated."""
    fewest = [int(rows["n"].min()) if rows["n"].notna().any() else 0 for rows in evals if rows["p"].isna().any()]
    return min(fewest, default=None)


def pass_at_k_curves(runs: Sequence[Run], *, minus: str = BASE) -> pd.DataFrame:
    """Pass@k of the base and of each run's last policy on the test prompts, k = 1 … 1024, and differences to `minus`.

    Exact in k where success was enumerated, else estimated for k up to the number of samples. Intervals are
    over prompts, of differences paired, or t over the seeds of a method that has several.

    Args:
        runs: the runs.
        minus: label of the method, or base, whose curve is subtracted. The base is not compared with a method.

    Returns:
        Columns sampling (parameters, as text), quantity (`value` or `difference`), label, k, value, low, high, kind,
        reason (why there is no interval).
    """
    ends = _ends(runs)
    parts = []
    for sampling, rows_at in ends.groupby("sampling", sort=False):
        curves: dict[str, np.ndarray] = {}  # label -> (seeds, prompts, k)
        for label in rows_at["label"].unique():
            rows = rows_at[rows_at["label"] == label].sort_values(["seed", "prompt_id"])
            per_k = [METRICS[f"pass@{k}"].values(rows) for k in K_GRID]
            curves[label] = np.stack(per_k, -1).reshape(rows["seed"].nunique(), -1, len(K_GRID))
        reference = curves.get(minus)
        compared = {
            label: curve - reference
            for label, curve in curves.items()
            if reference is not None and label not in (minus, BASE) and len(curve) % len(reference) == 0
        }
        for quantity, by_label in (("value", curves), ("difference", compared)):
            for label, curve in by_label.items():
                found = [_interval(by_k, quantity) for by_k in np.moveaxis(curve, -1, 0)]
                names = {"value": "estimate", "low": "low", "high": "high", "kind": "kind", "reason": "reason"}
                columns = {"k": K_GRID} | {
                    column: [getattr(mean, name) for mean in found] for column, name in names.items()
                }
                parts.append(pd.DataFrame({"sampling": sampling, "quantity": quantity, "label": label} | columns))
    return pd.concat(parts).dropna(subset=["value"])


def _ends(runs: Sequence[Run]) -> pd.DataFrame:
    """Rows of `evals` at all sampling parameters (column `sampling`): of the first evaluation (of one run, labelled
    base) and of each run's last, on the test prompts that all of them share."""
    tests = [run.table("evals", where=[("split", "==", "test")]).assign(label=run.label, seed=run.seed) for run in runs]
    ends = []
    for params in dict.fromkeys(params for rows in tests for params in SamplingParams.all_in(rows)):
        evaluated = [part.assign(sampling=str(params)) for rows in tests if len(part := params.rows(rows))]
        ends.append(evaluated[0][evaluated[0]["step"] == 0].assign(label=BASE))
        ends += [rows[rows["step"] == rows["step"].max()] for rows in evaluated if rows["step"].max() > 0]
    shared = set.intersection(*(set(rows["prompt_id"]) for rows in ends))
    rows = pd.concat(ends)
    return rows[rows["prompt_id"].isin(shared)]


def _interval(values: np.ndarray, quantity: str) -> Interval:
    """Mean of (seeds, prompts) over the prompts, or over several seeds; NaN where a number is missing."""
    if not np.isfinite(values).all():
        return Interval(float("nan"), float("nan"), float("nan"))
    if len(values) > 1:
        return interval(values.mean(1), over="seeds")
    if quantity == "value":
        return success(values[0])
    return smooth(float(values[0].mean()), [Spread.of(values[0], 1.0)], Kind.PROMPT_DIFFERENCE)
