"""The expected gradient by enumeration, for tasks whose correct responses can be listed.

On-policy, in the log or ratio form with a constant normaliser C, the expected update of every objective here is a
multiple of the gradients of the success probabilities p_x: PSR and NSR have the same one,

    E[−∂L/∂θ] = (n / C)·mean_x a_x·∇p_x

with n rollouts per step and a_x the difference between the advantage of a correct and of a wrong response: 1 for PSR
and NSR, 2 for REINFORCE (±1), 1 + λ for W-REINFORCE, in the limit of large groups 1/√(p_x(1−p_x)) under
`group_mean_std` and with p over the batch under `batch_mean_std` (subtracting a mean changes nothing).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..objectives import Objective
from ..objectives.advantages import STD_EPSILON, signed_value

__all__ = ["exact_loss"]


def exact_loss(objective: Objective, success: Tensor, n_rollouts: int, constant: float) -> Tensor:
    """The scalar whose negative gradient is the expected update's ascent direction.

    Args:
        objective: fixes the coefficients a_x.
        success: (n_prompts,) differentiable p_x.
        n_rollouts: rollouts that the sampled estimator would use, n_prompts × group size.
        constant: the normaliser's constant C.

    >>> from analysis.objectives import get
    >>> exact_loss(get("reinforce"), torch.tensor([0.25, 0.75]), n_rollouts=8, constant=4.0)
    tensor(-2.)
    """
    wrong, right = signed_value(objective.name, torch.tensor([0.0, 1.0]), objective.lambda_).tolist()
    spread = right - wrong
    coefficient = torch.full_like(success, spread)
    if objective.advantage in ("group_mean_std", "batch_mean_std"):
        p = success.detach()
        p = p.mean() if objective.advantage == "batch_mean_std" else p
        coefficient = coefficient / (spread * (p * (1 - p)).clamp_min(0).sqrt() + STD_EPSILON)
    return -(n_rollouts / constant) * (coefficient * success).mean()
