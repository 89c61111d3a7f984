"""Advantages of binary-reward objectives: a signed value of each response, normalised over its group or its batch.

Signed values for a reward r (1 correct, 0 wrong): PSR r, NSR −(1 − r), W-REINFORCE λr − (1 − r) (Zhu et al., arXiv
2506.01347, the last its Eq. 9), REINFORCE 2r − 1, GRPO r. The standard deviation is the unbiased one (n − 1), with
1e-6 added to it, as in verl's compute_grpo_outcome_advantage; TRL's GRPOTrainer takes the same and adds 1e-4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError

__all__ = ["normalised", "signed_value"]

STD_EPSILON = 1e-6


def signed_value(name: str, rewards: Tensor, lambda_: float | None) -> Tensor:
    """What one response counts before normalisation.

    >>> signed_value("w-reinforce", torch.tensor([1.0, 0.0]), 0.1)
    tensor([ 0.1000, -1.0000])
    """
    if name in ("psr", "grpo"):
        return rewards
    if name == "nsr":
        return rewards - 1
    if name == "reinforce":
        return 2 * rewards - 1
    assert lambda_ is not None  # rules.check has seen to it
    return lambda_ * rewards - (1 - rewards)


def normalised(values: Tensor, how: str, group_size: int) -> Tensor:
    """`values` (n,) by `how`: as they are, less the group's mean, also over its std, or the same over the batch.

    Equal values give exactly 0, whatever rounding does to their mean. A batch of one row has no std: UsageError.

    >>> normalised(torch.tensor([1.0, 0.0, 0.1, 0.1]), "group_mean", 2)
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    if how == "none":
        return values
    width = values.numel() if how == "batch_mean_std" else group_size
    if width < 2:
        raise UsageError(f"advantages: {how} needs at least 2 responses to compare, got {width}")
    groups = values.double().reshape(-1, width)
    centred = groups - groups.mean(-1, keepdim=True)
    if how != "group_mean":
        centred = centred / (groups.std(-1, keepdim=True) + STD_EPSILON)
    equal = groups.amax(-1, keepdim=True) == groups.amin(-1, keepdim=True)
    return torch.where(equal, 0.0, centred).reshape(-1).to(values.dtype)
