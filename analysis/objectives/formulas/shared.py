"""What the formulas of several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..token_batch import TokenBatch

__all__ = [
    "Parameters",
    "choose",
    "cut",
    "gap_to",
    "known_ratio",
    "length",
    "no_clip",
    "ratio_of",
    "straight_through",
    "total",
]

Parameters = Mapping[str, Any]


def known_ratio(batch: TokenBatch) -> Tensor:
    """ρ of the batch, detached."""
    assert batch.ratio is not None
    return batch.ratio


def ratio_of(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """ρ, differentiable in `log_probs`."""
    assert batch.old_log_probs is not None
    return torch.exp(log_probs - batch.old_log_probs.detach())


def gap_to(log_probs: Tensor, other: Tensor | None) -> Tensor:
    """log π_y less the log-probabilities of another policy."""
    assert other is not None
    return log_probs - other.detach()


def total(values: Tensor, batch: TokenBatch) -> Tensor:
    """Sum over the tokens of each response, (…, 1)."""
    return values.masked_fill(~batch.real(), 0).sum(-1, keepdim=True)


def length(batch: TokenBatch) -> Tensor:
    """Tokens of each response, (…, 1); 1 where there are none."""
    return batch.real().sum(-1, keepdim=True).clamp(min=1)


def no_clip(like: Tensor) -> Tensor:
    """The clip of an objective without one."""
    return torch.zeros(like.shape, dtype=torch.int8, device=like.device)


def choose(where: Tensor, chosen: float, other: float, like: Tensor) -> Tensor:
    """One number where `where`, the other elsewhere, in the dtype of `like`; torch.where of two numbers is float32."""
    return torch.where(where, like.new_tensor(chosen), like.new_tensor(other))


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of the first with the gradient of the second."""
    return value.detach() + gradient - gradient.detach()


def cut(values: Tensor, low: float | None, high: float | None) -> Tensor:
    """`values` clamped to the bounds that there are."""
    return values if low is None and high is None else values.clamp(low, high)
