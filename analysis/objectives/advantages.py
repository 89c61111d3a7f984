"""Advantages of objectives: a signed value of each response, normalised over its group or its batch.

Signed values for a reward r (1 correct, 0 wrong): PSR r, NSR −(1 − r), W-REINFORCE λr − (1 − r) (Zhu et al., arXiv
2506.01347, the last its Eq. 9), REINFORCE, PPO and TOPR 2r − 1, the latter two also r; GRPO and its relatives r. The
standard deviation is the unbiased one (n − 1), with 1e-6 added to it, as in verl's compute_grpo_outcome_advantage;
TRL's GRPOTrainer uses the same and adds 1e-4. `group_advantages` holds those that compare a group otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import UsageError
from .group_advantages import GROUP_ADVANTAGES, STD_EPSILON, group_std
from .responses import ResponseBatch
from .token_baseline import token_baseline_advantages
from .token_batch import accuracy_of

__all__ = [
    "Q_RANGE",
    "STD_EPSILON",
    "advantages_of",
    "normalised",
    "prompt_weight",
    "ranks",
    "signed_value",
    "whitened",
]

Q_RANGE = (0.02, 0.98)  # of the group's accuracy in NFT (arXiv 2505.18116, its code)
TOKEN_VARIANCE_EPSILON = 1e-8  # verl's masked_whiten
RESPONSE_STD_EPSILON = 1e-4  # TRL's GRPOTrainer and RLOOTrainer

Parameters = Mapping[str, Any]


def signed_value(value: str, rewards: Tensor, parameters: Parameters) -> Tensor:
    """What one response counts before normalisation, by `Entry.value`.

    >>> signed_value("lambda", torch.tensor([1.0, 0.0]), {"lambda_": 0.1})
    tensor([ 0.1000, -1.0000])
    """
    if value == "r" or parameters.get("reward_values") == "zero-one":
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
    less the mean and over the std of the group or of the batch, less the group's mean and over the batch's std.

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
    if how == "group_mean_batch_std":
        return (normalised(values.double(), "group_mean", group_size) / _batch_std(values)).to(values.dtype)
    width = values.numel() if how == "batch_mean_std" else group_size
    if width < 2:
        raise UsageError(f"advantages: {how} needs at least 2 responses to compare, got {width}")
    groups = rearrange(values.double(), "(group response) -> group response", response=width)
    centred = groups - groups.mean(-1, keepdim=True)
    if how == "leave_one_out":
        centred = centred * (width / (width - 1))
    elif how != "group_mean":
        centred = centred / (group_std(groups) + STD_EPSILON)
    equal = groups.amax(-1, keepdim=True) == groups.amin(-1, keepdim=True)
    return rearrange(torch.where(equal, 0.0, centred), "group response -> (group response)").to(values.dtype)


def _batch_std(values: Tensor) -> Tensor:
    return group_std(values.double()[None])[0] + STD_EPSILON


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


def whitened(values: Tensor, how: str, lengths: Tensor | None) -> Tensor:
    """Values (n,) of all responses of a batch less their mean and over their standard deviation (unbiased).

    "responses": each response counts once, and 1e-4 is added to the standard deviation, as in TRL. "tokens": each
    counts as often as it has tokens, and 1e-8 is added to the variance, as in verl's masked_whiten. Equal values give
    exactly 0.

    >>> whitened(torch.tensor([1.0, 0.0]), "tokens", torch.tensor([3, 1]))
    tensor([ 0.5000, -1.5000])
    """
    exact = values.double()
    counts = torch.ones_like(exact) if how == "responses" else _of(lengths).to(exact)
    total = counts.sum()
    if total < 2:
        raise UsageError(f"advantages: whiten = {how} needs at least 2 {how} in a batch, got {int(total)}")
    centred = exact - (counts * exact).sum() / total
    variance = (counts * centred.square()).sum() / (total - 1)
    tokens, responses = (variance + TOKEN_VARIANCE_EPSILON).sqrt(), variance.sqrt() + RESPONSE_STD_EPSILON
    scale = tokens if how == "tokens" else responses
    out = torch.zeros_like(exact) if exact.amax() == exact.amin() else centred / scale
    return out.to(values.dtype)


def _of(lengths: Tensor | None) -> Tensor:
    assert lengths is not None
    return lengths


def advantages_of(value: str, parts: Sequence[ResponseBatch], parameters: Parameters) -> list[Tensor]:
    """A (n,) of every response, or (n, T) of its tokens, in each part of a batch, by `Entry.value`.

    The parts differ in the size of their groups.

    Everything is as in `Objective.advantages_of`, which has checked it.
    """
    sizes = [len(part.rewards) for part in parts]
    if parameters.get("advantage") == "batch_mean_std":
        values = torch.cat([_value(value, part, parameters) for part in parts])
        return list(normalised(values, "batch_mean_std", 1).split(sizes))
    advantages = [_within_groups(value, part, parameters) for part in parts]
    if parameters.get("advantage") == "group_mean_batch_std":
        std = _batch_std(torch.cat([_value(value, part, parameters) for part in parts]))
        advantages = [(a.double() / std).to(a.dtype) for a in advantages]
    if value == "rescaled":
        factor = _rescaling(parameters["rescaling"], [part.rewards for part in parts], advantages)
        advantages = [a * factor for a in advantages]
    how = parameters.get("whiten", "none")
    if how == "none":
        return advantages
    lengths = None if how == "responses" else torch.cat([_of(part.lengths) for part in parts])
    return list(whitened(torch.cat(advantages), how, lengths).split(sizes))


def _within_groups(value: str, part: ResponseBatch, p: Parameters) -> Tensor:
    rewards, size = part.rewards, part.group_size
    if value in GROUP_ADVANTAGES:
        groups = rearrange(rewards.double(), "(group response) -> group response", response=size)
        return GROUP_ADVANTAGES[value](groups, part, p).flatten().to(rewards.dtype)
    if value == "token_baseline":
        return token_baseline_advantages(part)
    if value == "nft":
        weight = prompt_weight(p["prompt_weight"], accuracy_of(rewards, size))
        return torch.where(rewards > 0, weight, -weight)
    if value == "oreal":
        centred = normalised(rewards, "group_mean", size)
        return torch.where(rewards > 0, p["positive_weight"], p["negative_weight"] * centred)
    if value == "rescaled":
        return normalised(rewards, "group_mean", size)
    values = _value(value, part, p)
    how = p.get("advantage", "none")
    return normalised(values, "group_mean" if how == "group_mean_batch_std" else how, size, p.get("baseline"))


def _value(value: str, part: ResponseBatch, p: Parameters) -> Tensor:
    if value not in ("unlikely", "unlikely-paper"):
        return signed_value(value, part.rewards, p)
    assert part.mean_log_probs is not None
    scores, first = part.mean_log_probs, 0
    if value == "unlikely-paper":
        scores, first = scores * _of(part.lengths).to(scores), 1
    rank = ranks(scores, part.group_size).to(part.rewards.dtype) + first
    return part.rewards * (1 - p["rank_penalty"] * rank / part.group_size)


def _rescaling(how: str, rewards: Sequence[Tensor], centred: Sequence[Tensor]) -> float:
    """α of GPG: responses over those with an advantage (informative), or over those with a reward other than 0."""
    count = sum(len(part) for part in rewards)
    counted = centred if how == "informative" else rewards
    return count / max(1, sum(int((part != 0).sum()) for part in counted))
