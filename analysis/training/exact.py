"""The expected gradient by enumeration, for tasks whose correct responses can be listed.

On-policy, in the log or ratio form with a constant normaliser, the expected update of every objective here is a
multiple of the gradient of the success probability p_x of each prompt: PSR and NSR have the same one,

    E[−∂L/∂θ] = (n / C)·mean_x a_x·∇p_x,    a = 1 (PSR, NSR), 2 (REINFORCE ±1), 1 + λ (W-REINFORCE),
                                            1 / (√(p_x(1−p_x)) + 1e-6) (GRPO, in the limit of large groups),

with n rollouts per step and the normaliser's constant C. `group_mean` changes nothing in that limit,
`group_mean_std` divides by the standard deviation of the reward within the group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..objectives import Objective

__all__ = ["exact_loss"]

_STD_EPS = 1e-6  # as in the group-normalised advantages


def exact_loss(objective: Objective, success: Tensor, n_rollouts: int, constant: float) -> Tensor:
    """The scalar whose gradient is the expected update's ascent direction, negated.

    Args:
        objective: fixes the coefficient a_x.
        success: (n_prompts,) differentiable p_x.
        n_rollouts: rollouts that the sampled estimator would use, n_prompts × group size.
        constant: the normaliser's constant.
    """
    spread = objective.signed_reward(torch.tensor(1.0)) - objective.signed_reward(torch.tensor(0.0))
    coefficient = torch.full_like(success, float(spread))
    if objective.advantage == "group_mean_std":
        p = success.detach()
        coefficient = coefficient / (float(spread) * (p * (1 - p)).clamp_min(0).sqrt() + _STD_EPS)
    return -(n_rollouts / constant) * (coefficient * success).mean()
