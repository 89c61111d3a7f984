"""What exact gradients are made of: listed correct responses, the trained parameters, a gradient as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toy_models import Policy, Prompt, Task

from ..errors import UsageError

__all__ = ["flat_gradient", "listed_solutions", "trained_parameters"]


def trained_parameters(policy: Policy) -> list[Tensor]:
    """Those that a gradient is taken in."""
    return [p for p in policy.model.parameters() if p.requires_grad]


def flat_gradient(value: Tensor, parameters: list[Tensor]) -> Tensor:
    """The gradient of a scalar as one vector over all parameters."""
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])


def listed_solutions(task: Task, prompts: Sequence[Prompt], what: str) -> list[list[tuple[int, ...]]]:
    """The correct responses to each prompt; UsageError where there are no prompts, or the task does not list them.

    `what` needs the exact gradient, as the error says.
    """
    if not prompts:
        raise UsageError("prompts: expected at least one, got none")
    solutions: list[Any] = [task.solutions(prompt.ids) for prompt in prompts]
    if any(listed is None for listed in solutions):
        raise UsageError(
            f"task: {what} needs the exact gradient, and {task.name} does not list its correct "
            "responses; choose a task that does (path, countdown)"
        )
    return solutions
