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
from ..evaluation.intervals import bootstrap_weights
from ..plots import BASE
from .bands import band

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["DYNAMICS", "dynamics", "validation_pass_at_1"]

POINTS = 10  # of a curve over training rollouts
# name -> how a figure names it; the paper's Fig. 4 with its two entropies apart
DYNAMICS: dict[str, str] = {
    "greedy_correct": "greedy accuracy",
    "entropy_fixed": "H, fixed (nats)",
    "entropy_own": "H, own (nats)",
    "correct": "correct ratio",
    "solved": "fully solved ratio",
}


def dynamics(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Each quantity of `DYNAMICS` against `step`: columns label, step, value, low, high.

    Greedy accuracy and entropies are of the test prompts at each evaluation; the correct and the fully solved ratio of
    the training rollouts of step s, which the policy after s steps made, taken together over as many steps as leave
    `POINTS` points at most.
    """
    tests = evaluations(runs, "test")
    groups = rollout_groups(runs)
    together = -(-(int(groups["step"].max()) + 1) // POINTS) if len(groups) else 1
    groups["step"] = groups.groupby(groups["step"] // together)["step"].transform(lambda s: (s.min() + s.max()) / 2)
    return {name: band(tests if name in tests else groups, ["step"], name) for name in DYNAMICS}


def validation_pass_at_1(runs: Sequence[Run]) -> pd.DataFrame:
    """Pass@1 on the validation prompts at each evaluation: columns label, step, value, low, high."""
    rows = evaluations(runs, "validation")
    return band(rows.assign(value=METRICS["pass@1"].values(rows)), ["step"])


def evaluations(runs: Sequence[Run], split: str) -> pd.DataFrame:
    """Rows of `evals` of a split under each run's first law, with label and seed, common prompts only."""
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
    """One row for each group of rollouts: label, seed, step, `correct` (share) and `solved` (whether all are). Runs
    that did not record every rollout give their steps' means instead, from which no interval follows."""
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


def pass_at_k_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Pass@k of the base and of each run's last policy on the test prompts, k = 1 … 1024, and the difference to the
    base: columns law (as text), quantity (`value` or `difference`), label, k, value, low, high.

    Exact in k where success was enumerated, else estimated for k up to the number of samples. Intervals are bootstrap
    percentiles over prompts (the same resampled prompts for all, so that differences are paired), or t over the seeds
    of a method that has several.
    """
    ends = _ends(runs)
    weights = bootstrap_weights(ends["prompt_id"].nunique(), 0)
    parts = []
    for law, at in ends.groupby("law", sort=False):
        curves: dict[str, np.ndarray] = {}  # label -> (seeds, prompts, k)
        for label in at["label"].unique():
            rows = at[at["label"] == label].sort_values(["seed", "prompt_id"])
            per_k = [METRICS[f"pass@{k}"].values(rows) for k in K_GRID]
            curves[label] = np.stack(per_k, -1).reshape(rows["seed"].nunique(), -1, len(K_GRID))
        differences = {label: curve - curves[BASE] for label, curve in curves.items() if label != BASE}
        for quantity, of in (("value", curves), ("difference", differences)):
            for label, curve in of.items():
                value, low, high = _interval(curve, weights)
                parts.append(
                    pd.DataFrame(
                        {
                            "law": law,
                            "quantity": quantity,
                            "label": label,
                            "k": K_GRID,
                            "value": value,
                            "low": low,
                            "high": high,
                        }
                    )
                )
    return pd.concat(parts).dropna(subset=["value"])


def _ends(runs: Sequence[Run]) -> pd.DataFrame:
    """Rows of `evals` under each law (column `law`): of the first evaluation (of one run, labelled base) and of each
    run's last, on the test prompts that all of them share."""
    tests = [run.table("evals", where=[("split", "==", "test")]).assign(label=run.label, seed=run.seed) for run in runs]
    ends = []
    for law in dict.fromkeys(law for rows in tests for law in SamplingParams.all_in(rows)):
        under = [part.assign(law=str(law)) for rows in tests if len(part := law.rows(rows))]
        ends.append(under[0][under[0]["step"] == 0].assign(label=BASE))
        ends += [rows[rows["step"] == rows["step"].max()] for rows in under if rows["step"].max() > 0]
    shared = set.intersection(*(set(rows["prompt_id"]) for rows in ends))
    rows = pd.concat(ends)
    return rows[rows["prompt_id"].isin(shared)]


def _interval(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95% interval of (seeds, prompts, k) over the prompts, or over the seeds where there are several."""
    if len(values) > 1:
        found = [interval(over_seeds, over="seeds") for over_seeds in values.mean(1).T]
        ends = np.array([(one.estimate, one.low, one.high) for one in found])
        return ends[:, 0], ends[:, 1], ends[:, 2]
    draws = np.ascontiguousarray((weights @ values[0]).T)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    return values[0].mean(0), low, high
