"""Objectives whose tokens are coupled over their response, or over a pair of responses.

Still one scalar for each token: the gradient of a loss of Σ_t log π_t(y_t) is the same weight on every token. Sums run
over the last axis and leave masked positions out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..errors import UsageError
from .gated import nft_weight_of, straight_through_nft
from .token_batch import TokenBatch

__all__ = [
    "dpo_loss",
    "dpo_weight",
    "gspo_loss",
    "gspo_weight",
    "sequence_nft_loss",
    "sequence_nft_weight",
    "topr_loss",
    "topr_weight",
]

Parameters = Mapping[str, Any]


def _total(values: Tensor, batch: TokenBatch) -> Tensor:
    """Sum over the tokens of each response, (…, 1)."""
    return values.masked_fill(~batch.real(), 0).sum(-1, keepdim=True)


def _length(batch: TokenBatch) -> Tensor:
    return batch.real().sum(-1, keepdim=True).clamp(min=1)


def _gap(log_probs: Tensor, other: Tensor | None) -> Tensor:
    assert other is not None
    return log_probs - other.detach()


def _no_clip(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.int8, device=like.device)


def gspo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·s·1[s not clipped] with s = exp(mean log ρ)."""
    a = batch.per_token("advantages")
    s = (_total(_gap(batch.log_probs, batch.old_log_probs), batch) / _length(batch)).exp().expand_as(a)
    clip = _no_clip(a)
    if p["clip_high"] is not None:
        clip[(a > 0) & (s > 1 + p["clip_high"])] = 1
    if p["clip_low"] is not None:
        clip[(a < 0) & (s < 1 - p["clip_low"])] = -1
    return torch.where(clip == 0, a * s, 0.0), clip


def gspo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−min(s·A, clip(s)·A), the loss of the sequence, at each of its tokens."""
    a = batch.per_token("advantages")
    s = (_total(_gap(log_probs, batch.old_log_probs), batch) / _length(batch)).exp()
    low = 0.0 if p["clip_low"] is None else 1 - p["clip_low"]
    high = None if p["clip_high"] is None else 1 + p["clip_high"]
    return -torch.minimum(s * a, torch.clamp(s, low, high) * a)


def topr_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A where A ≥ 0, else A·min(1, Π ρ)."""
    a, total = batch.per_token("advantages"), _total(_gap(batch.log_probs, batch.old_log_probs), batch)
    return torch.where(a < 0, a * total.clamp(max=0).exp(), a), _no_clip(a)


def topr_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·log π_y, for A < 0 times sg(min(1, π(y)/π_old(y)))."""
    a = batch.per_token("advantages")
    ratio = torch.clamp(_total(_gap(log_probs, batch.old_log_probs), batch).exp(), 0, 1).detach()
    return -a * torch.where(a < 0, ratio, 1.0) * log_probs


def sequence_nft_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """NFT's row at Π ρ, the same at every token."""
    total = _total(_gap(batch.log_probs, batch.old_log_probs), batch).expand_as(batch.log_probs)
    return nft_weight_of(total, batch, p), _no_clip(total)


def sequence_nft_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """NFT's loss of the sequence, spread evenly over its tokens."""
    total = _total(_gap(log_probs, batch.old_log_probs), batch).expand_as(log_probs)
    return straight_through_nft(total, batch, p) / _length(batch)


def _margins(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """Δ of every row's pair, (B, 1)."""
    if log_probs.ndim != 2 or len(log_probs) % 2:
        raise UsageError(
            f"log_probs: dpo takes pairs, chosen before rejected: an even number of rows (B, T), got "
            f"{tuple(log_probs.shape)}"
        )
    total = _total(_gap(log_probs, batch.ref_log_probs), batch)
    return (total[0::2] - total[1::2]).repeat_interleave(2, 0)


def dpo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """βσ(−βΔ) on the chosen response's tokens, minus that on the rejected one's."""
    weight = p["beta"] * torch.sigmoid(-p["beta"] * _margins(batch.log_probs, batch))
    weight[1::2] *= -1
    return weight.expand_as(batch.log_probs).clone(), _no_clip(batch.log_probs)


def dpo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−log σ(βΔ) of each pair, half of it on each of its rows, evenly over the tokens."""
    loss = -logsigmoid(p["beta"] * _margins(log_probs, batch))
    return (loss / (2 * _length(batch))).expand_as(log_probs)
