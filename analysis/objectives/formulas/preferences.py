"""Losses of preferences, of pairs of responses or of single ones; the gradient is one scalar for each token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...errors import UsageError
from ..token_batch import TokenBatch
from .shared import Parameters, gap_to, length, no_clip, total

__all__ = [
    "apo_zero_unpaired_loss",
    "apo_zero_unpaired_weight",
    "dpo_loss",
    "dpo_weight",
    "kto_loss",
    "kto_weight",
    "orpo_loss",
    "orpo_weight",
]


def _check_pairs(name: str, log_probs: Tensor) -> None:
    if log_probs.ndim != 2 or len(log_probs) % 2:
        raise UsageError(
            f"log_probs: {name} takes pairs, chosen before rejected: an even number of rows (B, T), got "
            f"{tuple(log_probs.shape)}"
        )


def _margins(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """Δ of every row's pair, (B, 1)."""
    _check_pairs("dpo", log_probs)
    summed = total(gap_to(log_probs, batch.ref_log_probs), batch)
    return (summed[0::2] - summed[1::2]).repeat_interleave(2, 0)


def dpo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """βσ(−βΔ) on the chosen response's tokens, minus that on the rejected one's."""
    weight = p["beta"] * torch.sigmoid(-p["beta"] * _margins(batch.log_probs, batch))
    weight[1::2] *= -1
    return weight.expand_as(batch.log_probs).clone(), no_clip(batch.log_probs)


def dpo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−log σ(βΔ) of each pair, half of it on each of its rows, evenly over the tokens."""
    loss = -logsigmoid(p["beta"] * _margins(log_probs, batch))
    return (loss / (2 * length(batch))).expand_as(log_probs)


def _kto_weight(batch: TokenBatch, p: Parameters, baseline: Tensor) -> tuple[Tensor, Tensor]:
    """±λ·βσ(x)σ(−x), an even function of x = β(Δ − z)."""
    x = p["beta"] * (total(gap_to(batch.log_probs, batch.ref_log_probs), batch) - baseline)
    slope = p["beta"] * torch.sigmoid(x) * torch.sigmoid(-x)
    rewarded = batch.per_token("rewards") > 0
    weight = torch.where(rewarded, p["desirable_weight"] * slope, -p["undesirable_weight"] * slope)
    return weight, no_clip(weight)


def kto_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """λ_D·βσ(x)σ(−x) with x = β(Δ − z) on rewarded responses, −λ_U·βσ(x)σ(−x) on the others."""
    return _kto_weight(batch, p, batch.per_token("kl_baseline").clamp(min=0))


def kto_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """λ_D(1 − σ(β(Δ − z))) or λ_U(1 − σ(β(z − Δ))) of the response, spread evenly over its tokens."""
    baseline = batch.per_token("kl_baseline").clamp(min=0)
    margin = p["beta"] * (total(gap_to(log_probs, batch.ref_log_probs), batch) - baseline)
    rewarded = batch.per_token("rewards") > 0
    gain = p["desirable_weight"] * (1 - torch.sigmoid(margin))
    pain = p["undesirable_weight"] * (1 - torch.sigmoid(-margin))
    return torch.where(rewarded, gain, pain) / length(batch)


def apo_zero_unpaired_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """λ_D·βσ(x)σ(−x) with x = βΔ on rewarded responses, −λ_U·βσ(x)σ(−x) on the others."""
    return _kto_weight(batch, p, torch.zeros_like(batch.log_probs))


def apo_zero_unpaired_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """λ_D(1 − σ(βΔ)) or λ_U·σ(βΔ) of the response, spread evenly over its tokens."""
    margin = p["beta"] * total(gap_to(log_probs, batch.ref_log_probs), batch)
    rewarded = batch.per_token("rewards") > 0
    gain = p["desirable_weight"] * (1 - torch.sigmoid(margin))
    return torch.where(rewarded, gain, p["undesirable_weight"] * torch.sigmoid(margin)) / length(batch)


def orpo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """(1 + βσ(−δ)/(1 − P_w))/|y_w| on the chosen response's tokens, −βσ(−δ)/(1 − P_l)/|y_l| on the rejected one's.

    d/dm of log(P/(1 − P)) with P = e^m is 1/(1 − P).
    """
    _check_pairs("orpo", batch.log_probs)
    mean = total(batch.log_probs, batch) / length(batch)
    rest = -torch.expm1(mean)
    odds = mean - rest.log()
    pull = (p["beta"] * torch.sigmoid(odds[1::2] - odds[0::2])).repeat_interleave(2, 0) / rest
    weight = 1 + pull
    weight[1::2] = -pull[1::2]
    weight = (weight / length(batch)).expand_as(batch.log_probs).clone()
    return weight, no_clip(weight)


def orpo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−mean log π_w − β·log σ(δ) of each pair, half of it on each of its rows, evenly over the tokens."""
    _check_pairs("orpo", log_probs)
    mean = total(log_probs, batch) / length(batch)
    odds = mean - torch.log(-torch.expm1(mean))
    loss = -mean[0::2] - p["beta"] * logsigmoid(odds[0::2] - odds[1::2])
    return (loss.repeat_interleave(2, 0) / (2 * length(batch))).expand_as(log_probs)
