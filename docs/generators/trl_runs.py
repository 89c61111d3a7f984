"""The same training by TRL and by our own loop: are their curves the same? `compared_runs` has the rule.

A first measurement (seeds 0 to 3) kept the rule, but the loop cut what dropping leaves into four minibatches where TRL
fills minibatches of 128 rows, so that NSR made four updates a step against three and was ahead at every point. Both
sides now have `update.minibatch_size`, and the seeds are new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compared_runs import LOOP, METHODS, SIZE, STEPS, Curve, run_with

if TYPE_CHECKING:
    from analysis.training.loop import Loop

__all__ = ["SEEDS", "TRL", "measure", "run_curve"]

SEEDS = (10, 11, 12, 13)
TRL = "TRL"
SIDES = (LOOP, TRL)


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
    return run_with(None if side == LOOP else _trained_by_trl, method, seed, overrides)


def _trained_by_trl(loop: Loop, method: str, seed: int, folder: Path) -> list[Mapping[str, Any]]:
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
