"""The same training by TRL and by our own loop: are their curves the same?

Base, task, training prompts, rewards, optimiser, divisor, held-out prompts and evaluation are the same; what differs is
who samples, makes minibatches, computes the loss and steps. Both sides of a seed begin with the same parameters.

Fixed before the first run: `METHODS`, `SEEDS`, `STEPS`, `EVERY`, `SIZE`, `QUANTITIES`, and the rule. At each
evaluation after the start, of each method and quantity, the difference of the means over seeds (TRL minus loop) has
Student's interval with 2n − 2 degrees of freedom, at a level such that all intervals together hold with 95%
(Bonferroni). The curves are the same within their intervals if every interval contains 0. A control says whether this
rule can fail: TRL's curves of one method against the loop's of the other one.

A first measurement (seeds 0 to 3) kept the rule, but the loop cut what dropping leaves into four minibatches where TRL
fills minibatches of 128 rows, so that NSR made four updates a step against three and was ahead at every point. Both
sides now have `update.minibatch_size`, and the seeds are new.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
    "METHODS",
    "QUANTITIES",
    "SEEDS",
    "SIZE",
    "STEPS",
    "differences",
    "measure",
    "run_curve",
]

METHODS: dict[str, dict[str, Any]] = {
    "GRPO": {"objective.name": "grpo"},
    "NSR": {"objective.name": "nsr", "update.rows": "drop"},
}
SEEDS = (10, 11, 12, 13)
STEPS, EVERY = 12, 4
SIZE = {"rollout.prompts": 64, "rollout.group_size": 8, "update.minibatch_size": 128, "optimizer.lr": 3e-4}
FAMILY_LEVEL = 0.95
K = 16
QUANTITIES = {"pass_at_1": "Pass@1", "pass_at_k": f"Pass@{K}", "entropy_nats": "entropy"}
SIDES = ("loop", "TRL")

Curve = list[dict[str, float]]
Curves = Mapping[str, Mapping[str, Sequence[Curve]]]  # side -> method -> one for each seed


def measure(told: Callable[[str], Any] = lambda _: None, *, workers: int = 2) -> dict[str, Any]:
    """All runs, and what the page says of them; minutes on two cores.

    Args:
        told: called with a line after each run.
        workers: processes of one thread each.
    """
    wanted = [(side, method, seed) for seed in SEEDS for method in METHODS for side in SIDES]
    curves: dict[str, dict[str, list[Curve]]] = {side: {method: [] for method in METHODS} for side in SIDES}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for (side, method, seed), curve in zip(wanted, pool.map(_run, wanted), strict=True):
            curves[side][method].append(curve)
            told(f"{side}, {method}, seed {seed}")
    return {"seeds": len(SEEDS), "steps": STEPS, "size": SIZE, "curves": curves}


def _run(which: tuple[str, str, int]) -> Curve:
    return run_curve(*which)


def run_curve(side: str, method: str, seed: int, overrides: Mapping[str, Any] | None = None) -> Curve:
    """The evaluations of one run, from the base on: its step and each of `QUANTITIES`.

    Args:
        side: "loop" or "TRL".
        method: of `METHODS`.
        seed: of everything that is drawn.
        overrides: fields of the recipe, for a smaller run.
    """
    import pandas as pd
    import torch

    from analysis.recipes import Recipe
    from analysis.records import Run
    from analysis.training.loop import Loop

    torch.set_num_threads(1)
    fields: dict[str, Any] = {
        **{"grid": "unset", "seed": seed, "steps": STEPS, "update.minibatches": "unset"},
        **{**SIZE, **METHODS[method]},
        **{"eval.every": EVERY, "eval.final_prompts": 64, "eval.temperatures": [1.0], "eval.samples": 0},
        **{"record.tokens": 0.0, "record.contexts": 0, "record.rollouts": 0.0, "record.checkpoint": False},
        **(overrides or {}),
    }
    (planned,) = Recipe.load("default").set(**fields).expand()
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(planned.config, Path(folder) / "run", run_id="run", label=method)
        if side == "loop":
            loop.run()
            evaluations = Run(Path(folder) / "run").table("evals")
        else:
            evaluations = pd.concat([pd.DataFrame(columns) for columns in _trained_by_trl(loop, method, seed, folder)])
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


def _trained_by_trl(loop: Loop, method: str, seed: int, folder: str) -> list[Mapping[str, Any]]:
    """TRL trains the policy of a loop that is not run, which evaluates it; columns of each evaluation."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from analysis import ObjectiveTrainer

    config, task, policy = loop.config, loop.task, loop.policy
    rollouts = config.rollout.prompts * config.rollout.group_size
    rows = config.update.minibatch_size or rollouts
    updates = rollouts // rows
    ids_of = {prompt.text: prompt.ids for prompt in loop.train_prompts}
    policy.tokenizer.padding_side = "left"
    found: list[Mapping[str, Any]] = [loop.measurements.evaluation(0, 0, final=True)]

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        pairs = zip(prompts, completion_ids, strict=True)
        return [float(task.verify(ids_of[prompt], ids).correct) for prompt, ids in pairs]

    class Evaluations(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, within = divmod(state.global_step, updates)
            if not within and (step % config.eval.every == 0 or step == config.steps):
                found.append(loop.measurements.evaluation(step, state.global_step, final=step == config.steps))

    arguments = GRPOConfig(
        output_dir=f"{folder}/trl",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows,
        steps_per_generation=updates,
        gradient_accumulation_steps=1,
        num_generations=config.rollout.group_size,
        max_completion_length=task.max_new_tokens,
        temperature=config.rollout.temperature,
        max_steps=updates * config.steps,
        learning_rate=config.optimizer.lr,
        lr_scheduler_type="constant",
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.max_grad_norm or 0.0,
        loss_type="bnpo",  # divides by the tokens of the minibatch, as update.normalizer = batch_tokens
        beta=0.0,
        seed=seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer: Any = GRPOTrainer if method == "GRPO" else ObjectiveTrainer
    nsr: dict[str, Any] = {"objective": "nsr", "form": "ratio", "clip_low": 0.2, "clip_high": 0.2, "rows": "drop"}
    trainer(
        policy.model,
        reward,
        arguments,
        Dataset.from_list([{"prompt": text} for text in ids_of]),
        processing_class=policy.tokenizer,
        callbacks=[Evaluations()],
        **({} if method == "GRPO" else nsr),
    ).train()
    return found


def differences(curves: Curves, pairs: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """TRL minus loop, with the simultaneous interval, for each method, quantity and evaluation after the start.

    Args:
        curves: of `measure`.
        pairs: TRL's method -> the loop's; each with itself by default.
    """
    pairs = pairs or {method: method for method in METHODS}
    steps = [int(point["step"]) for point in curves["TRL"][next(iter(pairs))][0]][1:]
    level = 1 - (1 - FAMILY_LEVEL) / (len(pairs) * len(QUANTITIES) * len(steps))
    rows = []
    for method, other in pairs.items():
        for quantity in QUANTITIES:
            for place, step in enumerate(steps, 1):
                trl, loop = (
                    np.array([curve[place][quantity] for curve in curves[side][name]])
                    for side, name in (("TRL", method), ("loop", other))
                )
                rows.append(
                    {"method": method, "quantity": quantity, "step": step, "loop": loop.mean(), "trl": trl.mean()}
                    | _difference(trl, loop, level)
                )
    return rows


def _difference(first: np.ndarray, second: np.ndarray, level: float) -> dict[str, float]:
    """Of the means of two samples of the same size, with the interval of their pooled variance."""
    n = len(first)
    half = student_quantile(2 * n - 2, level) * math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / n)
    value = float(first.mean() - second.mean())
    return {"value": value, "low": value - half, "high": value + half}
