"""Data of the curves of an experiment: dynamics over steps, and Pass@k at the end, on held-out prompts.

Only prompts count that every evaluation of every run has: during training fewer are evaluated than at the end, and a
mean over other prompts is another quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ..evaluation import K_GRID, pass_at_k_exact
from ..plots import BASE
from .bands import band

if TYPE_CHECKING:
    from ..recording import Run

__all__ = ["DYNAMICS", "dynamics", "validation_pass_at_1"]

RESAMPLES = 2000
# name -> how a figure names it; the paper's Fig. 4 with its two entropies apart
DYNAMICS: dict[str, str] = {
    "greedy_correct": "greedy accuracy",
    "entropy_fixed": "H, fixed prefixes (nats)",
    "entropy_own": "H, own rollouts (nats)",
    "correct": "correct ratio",
    "solved": "fully solved ratio",
}


def dynamics(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Each quantity of `DYNAMICS` against `step`: columns label, step, value, low, high.

    Greedy accuracy and entropies are of the test prompts at each evaluation; the correct and the fully solved ratio of
    the training rollouts of step s, which the policy after s steps made.
    """
    tests = evaluations(runs, "test")
    groups = rollout_groups(runs)
    return {name: band(tests if name in tests else groups, ["step"], name) for name in DYNAMICS}


def validation_pass_at_1(runs: Sequence[Run]) -> pd.DataFrame:
    """Pass@1 on the validation prompts at each evaluation: columns label, step, value, low, high."""
    return band(evaluations(runs, "validation"), ["step"], "p")


def evaluations(runs: Sequence[Run], split: str) -> pd.DataFrame:
    """Rows of `evals` of a split at the first temperature evaluated, with label and seed, common prompts only."""
    rows = pd.concat([
        run.table("evals", where=[("split", "==", split)]).assign(run_id=run.run_id, label=run.label, seed=run.seed)
        for run in runs
    ])
    rows = rows[rows["temperature"] == rows["temperature"].iloc[0]] if len(rows) else rows
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
    return pd.concat(parts)


def pass_at_k_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Pass@k of the base and of each run's last policy on the test prompts, k = 1 … 1024, and the difference to the
    base: columns temperature, quantity (`value` or `difference`), label, k, value, low, high.

    Exact in k; intervals are bootstrap percentiles over prompts (the same resampled prompts for all, so that
    differences are paired), or t over the seeds of a method that has several.
    """
    parts = []
    for temperature, values in _final_success(runs).items():
        curves = {label: pass_at_k_exact(p[..., None], K_GRID) for label, p in values.items()}
        base = curves[BASE]
        differences = {label: curve - base for label, curve in curves.items() if label != BASE}
        for quantity, of in (("value", curves), ("difference", differences)):
            for label, curve in of.items():
                value, low, high = _interval(curve)
                parts.append(pd.DataFrame({"temperature": temperature, "quantity": quantity, "label": label,
                                           "k": K_GRID, "value": value, "low": low, "high": high}))
    return pd.concat(parts)


def _final_success(runs: Sequence[Run]) -> dict[float, dict[str, np.ndarray]]:
    """p of the test prompts by temperature and label: (seeds, prompts), the base first."""
    rows = pd.concat([
        run.table("evals", ["step", "prompt_id", "temperature", "p"], [("split", "==", "test")])
        .assign(label=run.label, seed=run.seed, run_id=run.run_id)
        for run in runs
    ])
    last = rows.groupby("run_id")["step"].transform("max")
    ends = pd.concat([rows[rows["step"] == 0].assign(label=BASE), rows[(rows["step"] == last) & (last > 0)]])
    out: dict[float, dict[str, np.ndarray]] = {}
    for temperature, at in ends.groupby("temperature", sort=False):
        table = at.drop_duplicates(["label", "seed", "prompt_id"]).pivot(
            index="prompt_id", columns=["label", "seed"], values="p").dropna()
        out[float(temperature)] = {label: table[label].to_numpy().T for label in at["label"].unique()}
    return out


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95% interval of (seeds, prompts, k) over the prompts, or over the seeds where there are several."""
    if len(values) > 1:
        means = values.mean(1)
        half = student.ppf(0.975, len(means) - 1) * means.std(0, ddof=1) / np.sqrt(len(means))
        return means.mean(0), means.mean(0) - half, means.mean(0) + half
    prompts = values.shape[1]
    drawn = np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES) / prompts
    low, high = np.quantile(drawn @ values[0], [0.025, 0.975], axis=0)
    return values[0].mean(0), low, high
