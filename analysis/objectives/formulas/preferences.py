"""Losses of pairs of responses; the gradient is one scalar for each token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...errors import UsageError
from ..token_batch import TokenBatch
from .shared import Parameters, gap_to, length, no_clip, total

__all__ = [
    "dpo_loss",
    "dpo_weight",
]


def _margins(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """Δ of every row's pair, (B, 1)."""
    if log_probs.ndim != 2 or len(log_probs) % 2:
        raise UsageError(
            f"log_probs: dpo takes pairs, chosen before rejected: an even number of rows (B, T), got "
            f"{tuple(log_probs.shape)}"
        )
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
