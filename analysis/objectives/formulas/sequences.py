"""Objectives whose tokens are coupled over their response.

Still one scalar for each token: the gradient of a loss of Σ_t log π_t(y_t) is the same weight on every token. Sums run
over the last axis and leave masked positions out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, gap_to, length, no_clip, total

__all__ = [
    "gspo_loss",
    "gspo_weight",
    "topr_loss",
    "topr_weight",
]


def gspo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·s·1[s not clipped] with s = exp(mean log ρ)."""
    a = batch.per_token("advantages")
    s = (total(gap_to(batch.log_probs, batch.old_log_probs), batch) / length(batch)).exp().expand_as(a)
    clip = no_clip(a)
    if p["clip_high"] is not None:
        clip[(a > 0) & (s > 1 + p["clip_high"])] = 1
    if p["clip_low"] is not None:
        clip[(a < 0) & (s < 1 - p["clip_low"])] = -1
    return torch.where(clip == 0, a * s, 0.0), clip


def gspo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−min(s·A, clip(s)·A), the loss of the sequence, at each of its tokens."""
    a = batch.per_token("advantages")
    s = (total(gap_to(log_probs, batch.old_log_probs), batch) / length(batch)).exp()
    low = 0.0 if p["clip_low"] is None else 1 - p["clip_low"]
    high = None if p["clip_high"] is None else 1 + p["clip_high"]
    return -torch.minimum(s * a, torch.clamp(s, low, high) * a)


def topr_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A where A ≥ 0, else A·min(1, Π ρ)."""
    a, summed = batch.per_token("advantages"), total(gap_to(batch.log_probs, batch.old_log_probs), batch)
    return torch.where(a < 0, a * summed.clamp(max=0).exp(), a), no_clip(a)


def topr_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·log π_y, for A < 0 times sg(min(1, π(y)/π_old(y)))."""
    a = batch.per_token("advantages")
    ratio = torch.clamp(total(gap_to(log_probs, batch.old_log_probs), batch).exp(), 0, 1).detach()
    return -a * torch.where(a < 0, ratio, 1.0) * log_probs
