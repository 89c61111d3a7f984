"""Optimisers and learning-rate schedules of a recipe.

The schedule is a function of the rollout step, so that methods that make different numbers of updates per step are
compared under the same learning rate at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter

from ..recipes.fields import OptimizerFields

__all__ = ["learning_rate", "make_optimizer"]

# Parameters from which AdamW makes its step in one fused pass over memory: the same formula, rounded otherwise. Below,
# where a step costs nothing either way, the plain one keeps recorded runs what they were.
_FUSED_FROM = 10_000_000


def make_optimizer(parameters: Iterable[Parameter], fields: OptimizerFields) -> torch.optim.Optimizer:
    """AdamW (decoupled weight decay) or SGD (momentum, L2 weight decay) at the recipe's settings.

    AdamW is torch's fused one for models of 10 million trained parameters and more, where it takes a third of the time.
    """
    parameters = list(parameters)
    if fields.name == "sgd":
        return torch.optim.SGD(parameters, lr=fields.lr, momentum=fields.momentum, weight_decay=fields.weight_decay)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = sum(parameter.numel() for parameter in trained) >= _FUSED_FROM
    return torch.optim.AdamW(
        parameters,
        lr=fields.lr,
        betas=fields.betas,
        eps=fields.eps,
        weight_decay=fields.weight_decay,
        fused=fused or None,
    )


def learning_rate(fields: OptimizerFields, step: int, steps: int) -> float:
    """Learning rate of rollout step `step` of `steps`: linear warm-up times the schedule.

    >>> f = OptimizerFields(lr=1.0, schedule="linear", warmup_steps=2)
    >>> [round(learning_rate(f, s, 6), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = fields.warmup_steps
    if step < warmup:
        return fields.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    if fields.schedule == "linear":
        return fields.lr * (1 - progress)
    if fields.schedule == "cosine":
        return fields.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return fields.lr
