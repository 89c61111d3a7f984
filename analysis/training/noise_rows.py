"""Gradient noise of a run's policy: rows of the table `noise`, with rollouts drawn as the run draws its own."""

from __future__ import annotations

from typing import Any

import torch

from toy_models import Policy, Prompt, Task

from ..errors import UsageError
from ..gradient_noise import gradient_noise, standard_estimators
from ..recipes.fields import RolloutFields

__all__ = ["check_enumerable", "noise_rows"]

_LAMBDA = 0.1  # the paper's, where the run has none


def check_enumerable(task: Task, prompts: list[Prompt]) -> None:
    """UsageError where the correct responses to one of the prompts cannot be listed."""
    if any(task.solutions(prompt.ids) is None for prompt in prompts):
        raise UsageError(
            "record.noise_every: expected a task that lists its correct responses, since gradient noise is measured "
            f"around the exact gradient, got {task.name}, which does not; set record.noise_every = 0"
        )


def noise_rows(
    policy: Policy,
    sampler: torch.nn.Module,
    task: Task,
    prompts: list[Prompt],
    rollout: RolloutFields,
    generator: torch.Generator,
    *,
    replicates: int,
    lambda_: float | None,
) -> dict[str, Any]:
    """Columns of the table `noise` but `step` and `update`, one row an estimator; missing values are None.

    Raises DivergedError where the policy's distribution is not finite.
    """
    noise = gradient_noise(
        policy,
        task,
        prompts,
        generator=generator,
        group_size=rollout.group_size,
        replicates=replicates,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        max_new_tokens=rollout.max_new_tokens,
        sampler=sampler,
        estimators=standard_estimators(rollout.group_size, _LAMBDA if lambda_ is None else lambda_),
        batch_checked=True,
    )
    frame = noise.frame()
    # NaN is unequal to itself
    return {str(name): [None if value != value else value for value in frame[name]] for name in frame}
