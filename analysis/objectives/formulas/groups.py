"""Objectives that compare the rewards of a group and are more than a policy gradient with an advantage."""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, no_clip

__all__ = [
    "oreal_loss",
    "oreal_weight",
]


def _token_weights(batch: TokenBatch) -> Tensor:
    return torch.ones_like(batch.log_probs) if batch.token_weights is None else batch.per_token("token_weights")


def oreal_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """ω_t·A, with α in A for correct responses (see `advantages`)."""
    return _token_weights(batch) * batch.per_token("advantages"), no_clip(batch.log_probs)


def oreal_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """Correct: −α·ω_t·log π_y; wrong: −ω_t·A·ρ with the ratio of the policy to itself."""
    a, correct = batch.per_token("advantages"), batch.per_token("rewards") > 0
    return -_token_weights(batch) * a * torch.where(correct, log_probs, (log_probs - log_probs.detach()).exp())
