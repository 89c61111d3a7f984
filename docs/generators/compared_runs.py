"""The same training by another trainer and by our own loop: what is run on both sides, and how curves are compared.

Base, task, training prompts, rewards, optimiser, divisor, held-out prompts and evaluation are the same; what differs is
who samples, makes minibatches, computes the loss and steps. Both sides of a seed begin with the same parameters.

Fixed before the first run: `METHODS`, the steps, `EVERY`, `SIZE`, `QUANTITIES`, and the rule. At each evaluation after
the start, of each method and quantity, the difference of the means over seeds (the trainer minus the loop) has
Student's interval with 2n − 2 degrees of freedom, at a level such that all intervals together hold with 95%
(Bonferroni). The curves are the same within their intervals if every interval contains 0. A control says whether this
rule can fail: the trainer's curves of one method against the loop's of the other one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.evaluation.intervals import student_quantile

if TYPE_CHECKING:
    import pandas as pd

    from analysis.training.loop import Loop

__all__ = [
    "EVERY",
    "FAMILY_LEVEL",
    "LOOP",
    "METHODS",
    "QUANTITIES",
    "SIZE",
    "STEPS",
    "Curve",
    "Curves",
    "K",
    "Trained",
    "differences",
    "run_with",
]

METHODS: dict[str, dict[str, Any]] = {
    "GRPO": {"objective.name": "grpo"},
    "NSR": {"objective.name": "nsr", "update.rows": "drop"},
}
STEPS, EVERY = 12, 4
SIZE = {"rollout.prompts": 64, "rollout.group_size": 8, "update.minibatch_size": 128, "optimizer.lr": 3e-4}
FAMILY_LEVEL = 0.95
K = 16
QUANTITIES = {"pass_at_1": "Pass@1", "pass_at_k": f"Pass@{K}", "entropy_nats": "entropy"}
LOOP = "loop"

Curve = list[dict[str, float]]
Trained = Callable[["Loop", str, int, Path], Sequence[Mapping[str, Any]]]  # see `run_with`
Curves = Mapping[str, Mapping[str, Sequence[Curve]]]  # side -> method -> one for each seed


def planned_loop(method: str, seed: int, folder: Path, overrides: Mapping[str, Any] | None = None) -> Loop:
    """The loop of a method and a seed before its first step; the trainer begins from its policy.

    Args:
        method: of `METHODS`.
        seed: of everything that is drawn.
        folder: of the run.
        overrides: fields of the recipe, for a smaller run.
    """
    from analysis.recipes import Recipe
    from analysis.training.loop import Loop

    fields: dict[str, Any] = {
        **{"grid": "unset", "seed": seed, "steps": STEPS, "update.minibatches": "unset"},
        **{**SIZE, **METHODS[method]},
        **{"eval.every": EVERY, "eval.final_prompts": 64, "eval.temperatures": [1.0], "eval.samples": 0},
        **{"record.tokens": 0.0, "record.contexts": 0, "record.rollouts": 0.0, "record.checkpoint": False},
        **(overrides or {}),
    }
    (planned,) = Recipe.load("default").set(**fields).expand()
    return Loop(planned.config, folder, run_id="run", label=method)


def run_with(trained: Trained | None, method: str, seed: int, overrides: Mapping[str, Any] | None = None) -> Curve:
    """The evaluations of one run, from the base on: its step and each of `QUANTITIES`.

    Args:
        trained: has the other trainer train the policy of a loop that is not run, given that loop, method, seed and an
            empty folder; gives the columns of each evaluation. None: the loop is run.
        method: of `METHODS`.
        seed: of everything that is drawn.
        overrides: fields of the recipe.
    """
    import pandas as pd
    import torch

    from analysis.records import Run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = planned_loop(method, seed, folder / "run", overrides)
        if trained is not None:
            return curve_of(pd.concat([pd.DataFrame(columns) for columns in trained(loop, method, seed, folder)]))
        loop.run()
        return curve_of(Run(folder / "run").table("evals"))


def curve_of(evaluations: pd.DataFrame) -> Curve:
    """Each evaluation of a run, rows of the table `evals`: its step and each of `QUANTITIES`."""
    steps = sorted({int(step) for step in evaluations["step"]})
    return [_point(step, evaluations[evaluations["step"] == step]) for step in steps]


def _point(step: int, rows: pd.DataFrame) -> dict[str, float]:
    p = rows["p"].to_numpy(np.float64)
    return {
        "step": step,
        "pass_at_1": float(p.mean()),
        "pass_at_k": float((1 - (1 - p) ** K).mean()),
        "entropy_nats": float(rows["entropy_fixed"].to_numpy(np.float64).mean()),
    }


def differences(curves: Curves, trainer: str, pairs: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Trainer minus loop, with the simultaneous interval, for each method, quantity and evaluation after the start.

    Args:
        curves: of both sides.
        trainer: the other side's name.
        pairs: the trainer's method -> the loop's; each with itself by default.
    """
    pairs = pairs or {method: method for method in METHODS}
    steps = [int(point["step"]) for point in curves[trainer][next(iter(pairs))][0]][1:]
    level = 1 - (1 - FAMILY_LEVEL) / (len(pairs) * len(QUANTITIES) * len(steps))
    rows = []
    for method, other in pairs.items():
        for quantity in QUANTITIES:
            for place, step in enumerate(steps, 1):
                theirs, loop = (
                    np.array([curve[place][quantity] for curve in curves[side][name]])
                    for side, name in ((trainer, method), (LOOP, other))
                )
                rows.append(
                    {"method": method, "quantity": quantity, "step": step}
                    | {"loop": loop.mean(), "trainer": theirs.mean()}
                    | _difference(theirs, loop, level)
                )
    return rows


def _difference(first: np.ndarray, second: np.ndarray, level: float) -> dict[str, float]:
    """Of the means of two samples of the same size, with the interval of their pooled variance."""
    n = len(first)
    half = student_quantile(2 * n - 2, level) * math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / n)
    value = float(first.mean() - second.mean())
    return {"value": value, "low": value - half, "high": value + half}
