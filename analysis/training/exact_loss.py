"""The expected gradient by enumeration, for tasks whose correct responses can be listed.

On-policy, in the log or ratio form with a constant normaliser C and plain rewards, the expected update of every
objective is a multiple of the gradients of the success probabilities p_x: PSR and NSR have the same one,

    E[−∂L/∂θ] = a·(n / C)·mean_x ∇p_x

with n rollouts per step and a the difference between what a correct and a wrong response count: 1 for PSR and NSR,
2 for REINFORCE (±1), 1 + λ for W-REINFORCE.
"""

from __future__ import annotations

from torch import Tensor

from ..objectives import Objective

__all__ = ["exact_loss"]


def exact_loss(objective: Objective, success: Tensor, n_rollouts: int, constant: float) -> Tensor:
    """The scalar −a·(n/C)·mean_x p_x whose negative gradient is the expected update's ascent direction.

    Args:
        objective: fixes a; its advantages must not be normalised.
        success: (n_prompts,) differentiable p_x.
        n_rollouts: rollouts that the sampled estimator would use, n_prompts × group size.
        constant: the normaliser's constant C.

    >>> import torch
    >>> from analysis.objectives import get
    >>> exact_loss(get("reinforce-log"), torch.tensor([0.25, 0.75]), n_rollouts=8, constant=4.0)
    tensor(-2.)
    """
    return -(objective.contrast() * n_rollouts / constant) * success.mean()
