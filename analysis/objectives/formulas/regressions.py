"""Losses that regress a log-ratio on the reward: of a response (Kimi k1.5, DRO) or of each token."""

from __future__ import annotations

from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, gap_to, length, no_clip, total

__all__ = ["dro_loss", "dro_token_loss", "dro_token_weight", "dro_weight", "kimi_loss", "kimi_weight"]


def _weight(batch: TokenBatch, other: Tensor | None, p: Parameters) -> tuple[Tensor, Tensor]:
    a = batch.per_token("advantages")
    return a - p["tau"] * total(gap_to(batch.log_probs, other), batch), no_clip(a)


def kimi_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A − τ·Σ_t log ρ_t, the same at every token of a response with one advantage.

    A factor of tokens acts on A token by token and on the square of the response by its mean.
    """
    weight, clip = _weight(batch, batch.old_log_probs, p)
    if (factor := p.get("factor")) is None:
        return weight, clip
    a = batch.per_token("advantages")
    return a * factor + (weight - a) * total(factor, batch) / length(batch), clip


def kimi_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·log π_t, and the response's (τ/2)(Σ_t log ρ_t)² spread evenly over its tokens."""
    squared = total(gap_to(log_probs, batch.old_log_probs), batch).square()
    loss = -batch.per_token("advantages") * log_probs + p["tau"] / 2 * squared / length(batch)
    return loss if p.get("factor") is None else loss * p["factor"]


def dro_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A − τ·Σ_t log(π_t/ref_t)."""
    return _weight(batch, batch.ref_log_probs, p)


def dro_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """(A − τ·Σ_t log(π_t/ref_t))²/(2τ) of the response, spread evenly over its tokens."""
    error = batch.per_token("advantages") - p["tau"] * total(gap_to(log_probs, batch.ref_log_probs), batch)
    return error.square() / (2 * p["tau"]) / length(batch)


def dro_token_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A − τ·log ρ of each token."""
    a = batch.per_token("advantages")
    return a - p["tau"] * gap_to(batch.log_probs, batch.old_log_probs), no_clip(a)


def dro_token_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−(A·log π − (τ/2)·log² ρ) of each token."""
    gap = gap_to(log_probs, batch.old_log_probs)
    return -(batch.per_token("advantages") * log_probs - p["tau"] / 2 * gap.square())
