"""Advantages of binary-reward objectives: a signed value of each response, normalised over its group or its batch.

Signed values for a reward r (1 correct, 0 wrong): PSR r, NSR −(1 − r), W-REINFORCE λr − (1 − r) (Zhu et al., arXiv
2506.01347, the last its Eq. 9), REINFORCE 2r − 1, GRPO and its relatives r. The standard deviation is the unbiased one
(n − 1), with 1e-6 added to it, as in verl's compute_grpo_outcome_advantage; TRL's GRPOTrainer uses the same and adds
1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import UsageError
from .token_batch import accuracy_of

__all__ = ["Q_RANGE", "normalised", "prompt_weight", "ranks", "signed_value"]

STD_EPSILON = 1e-6
Q_RANGE = (0.02, 0.98)  # of the group's accuracy in NFT (arXiv 2505.18116, its code)


def signed_value(value: str, rewards: Tensor, parameters: Mapping[str, Any]) -> Tensor:
    """What one response counts before normalisation, by `Entry.value`.

    >>> signed_value("lambda", torch.tensor([1.0, 0.0]), {"lambda_": 0.1})
    tensor([ 0.1000, -1.0000])
    """
    if value == "r":
        return rewards
    if value == "r-1":
        return rewards - 1
    if value == "2r-1":
        return 2 * rewards - 1
    if value == "1":
        return torch.ones_like(rewards)
    assert value == "lambda"
    return parameters["lambda_"] * rewards - (1 - rewards)


def normalised(values: Tensor, how: str, group_size: int, baseline: float | None = None) -> Tensor:
    """`values` (n,) by `how`: as they are, less a constant, less the group's mean or the mean of the group's others,
    less the mean and over the std of the group or of the batch.

    Equal values give exactly 0, whatever rounding does to their mean. A batch of one row has no std: UsageError.

    >>> normalised(torch.tensor([1.0, 0.0, 0.1, 0.1]), "group_mean", 2)
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    >>> normalised(torch.tensor([1.0, 0.0, 0.0]), "leave_one_out", 3)
    tensor([ 1.0000, -0.5000, -0.5000])
    """
    if how == "none":
        return values
    if how == "constant":
        assert baseline is not None  # rules.settings has seen to it
        return values - baseline
    width = values.numel() if how == "batch_mean_std" else group_size
    if width < 2:
        raise UsageError(f"advantages: {how} needs at least 2 responses to compare, got {width}")
    groups = rearrange(values.double(), "(group response) -> group response", response=width)
    centred = groups - groups.mean(-1, keepdim=True)
    if how == "leave_one_out":
        centred = centred * (width / (width - 1))
    elif how != "group_mean":
        # torch.std, of one pass, takes six times as long over rows this short
        std = (centred.square().sum(-1, keepdim=True) / (width - 1)).sqrt()
        centred = centred / (std + STD_EPSILON)
    equal = groups.amax(-1, keepdim=True) == groups.amin(-1, keepdim=True)
    return rearrange(torch.where(equal, 0.0, centred), "group response -> (group response)").to(values.dtype)


def ranks(scores: Tensor, group_size: int) -> Tensor:
    """Rank (n,) of each score in its group, 0 the least, ties in order.

    >>> ranks(torch.tensor([-1.0, -3.0, -3.0, -2.0]), 4)
    tensor([3., 0., 1., 2.])
    """
    groups = rearrange(scores, "(group response) -> group response", response=group_size)
    order = groups.argsort(dim=-1, stable=True)
    return rearrange(order.argsort(dim=-1), "group response -> (group response)").to(scores.dtype)


def prompt_weight(how: str, accuracy: Tensor) -> Tensor:
    """ω of NFT: 1, 1 − q or √((1 − q)/q), with q kept in `Q_RANGE`.

    >>> prompt_weight("sqrt", torch.tensor([0.5, 0.8]))
    tensor([1.0000, 0.5000])
    """
    q = accuracy.clamp(*Q_RANGE)
    if how == "none":
        return torch.ones_like(q)
    return 1 - q if how == "1-q" else ((1 - q) / q).sqrt()


def advantages_of(
    value: str, rewards: Tensor, group_size: int, parameters: Mapping[str, Any], mean_log_probs: Tensor | None = None
) -> Tensor:
    """A (n,) of every response, by `Entry.value`; arguments as in `Objective.advantages`, already checked."""
    if value == "nft":
        weight = prompt_weight(parameters["prompt_weight"], accuracy_of(rewards, group_size))
        return torch.where(rewards > 0, weight, -weight)
    if value == "oreal":
        centred = normalised(rewards, "group_mean", group_size)
        return torch.where(rewards > 0, parameters["positive_weight"], parameters["negative_weight"] * centred)
    if value == "unlikely":
        assert mean_log_probs is not None
        rank = ranks(mean_log_probs, group_size).to(rewards.dtype)
        values = rewards * (1 - parameters["rank_penalty"] * rank / group_size)
    else:
        values = signed_value(value, rewards, parameters)
    if "advantage" not in parameters:
        return values
    return normalised(values, parameters["advantage"], group_size, parameters["baseline"])
