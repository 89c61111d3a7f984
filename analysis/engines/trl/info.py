"""What run.json says of a TRL trainer, and which of its rollouts count as correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from ...common.provenance import machine_info
from ...errors import UsageError
from ...probes.output_heads import OutputHead
from ...probes.record_spec import RecordSpec
from .batches import class_names
from .refusals import trl_version

__all__ = ["ENGINE", "correctness", "run_info"]

ENGINE = "trl"
_SETTINGS = (
    "loss_type",
    "beta",
    "epsilon",
    "epsilon_high",
    "delta",
    "importance_sampling_level",
    "scale_rewards",
    "num_generations",
    "num_iterations",
    "steps_per_generation",
    "gradient_accumulation_steps",
    "per_device_train_batch_size",
    "max_completion_length",
    "learning_rate",
    "top_entropy_quantile",
    "mask_truncated_completions",
)


def run_info(trainer: Any, head: OutputHead, spec: RecordSpec, run_id: str) -> dict[str, Any]:
    """The fields of run.json for the training of a TRL trainer."""
    made_with, parameter = machine_info(), next(head.model.parameters())
    names = class_names(trainer)
    settings = {name: getattr(trainer.args, name) for name in _SETTINGS if hasattr(trainer.args, name)}
    label = type(trainer).__name__
    if "ObjectiveTrainer" in names:
        label = trainer.objective.name
    elif "loss_type" in settings and "GMPOTrainer" not in names:
        label = f"{label} ({settings['loss_type']})"
    return {
        "run_id": run_id,
        "label": label,
        "engine": ENGINE,
        "recipe": None,
        "hash": None,
        "seed": trainer.args.seed,
        "temperature": float(trainer.temperature),
        "versions": made_with["versions"] | {"trl": trl_version()},
        "git_commit": made_with["commit"],
        "machine": made_with["machine"],
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "reward_functions": list(trainer.reward_func_names),
        "record": asdict(spec)
        | {
            "head": head.description,
            "signs": "of the advantage",
            "trainer": type(trainer).__name__,
            "settings": settings,
            "processes": trainer.accelerator.num_processes,
        },
    }


def correctness(correct: float | str | None, names: list[str]) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """(values of the reward functions (N, F), rewards (N,)) -> bool (N,): which rollouts are correct."""
    if correct is None:
        return None
    if isinstance(correct, str):
        if correct not in names:
            raise UsageError(
                f"correct: expected the name of a reward function ({', '.join(names)}), got {correct!r}; or a number, "
                "above which a reward counts as correct"
            )
        column = names.index(correct)
        return lambda values, rewards: values[:, column] > 0
    if isinstance(correct, bool) or not isinstance(correct, int | float) or not np.isfinite(correct):
        raise UsageError(f"correct: expected a finite number or the name of a reward function, got {correct!r}")
    return lambda values, rewards: rewards > correct
