"""Ratios that are clipped or gated token by token, each with its weight and the loss of its paper or its code."""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, known_ratio, no_clip, ratio_of

__all__ = [
    "cispo_loss",
    "cispo_weight",
    "sapo_loss",
    "sapo_weight",
]


def cispo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·clip(ρ): where the clip binds the ratio is the bound, and the weight stays."""
    ratio = known_ratio(batch)
    if p["clip_low"] is not None:
        ratio = torch.where(ratio < 1 - p["clip_low"], 1 - p["clip_low"], ratio)
    if p["clip_high"] is not None:
        ratio = torch.where(ratio > 1 + p["clip_high"], 1 + p["clip_high"], ratio)
    return batch.per_token("advantages") * ratio, no_clip(ratio)


def cispo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−sg(clip ρ)·A·log π_y."""
    low = 0.0 if p["clip_low"] is None else 1 - p["clip_low"]
    high = None if p["clip_high"] is None else 1 + p["clip_high"]
    return -torch.clamp(ratio_of(log_probs, batch), low, high).detach() * batch.per_token("advantages") * log_probs


def _tau(a: Tensor, p: Parameters) -> Tensor:
    """τ of each token in the dtype of A; `torch.where` of two Python numbers alone would round it to float32."""
    return torch.full_like(a, p["tau_neg"]).masked_fill_(a > 0, p["tau_pos"])


def sapo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """4·A·ρ·σ(1 − σ) with σ = sigmoid(τ(ρ − 1))."""
    a, ratio = batch.per_token("advantages"), known_ratio(batch)
    x = _tau(a, p) * (ratio - 1)
    return 4 * a * ratio * torch.sigmoid(x) * torch.sigmoid(-x), no_clip(a)


def sapo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·(4/τ)·sigmoid(τ(ρ − 1))."""
    a = batch.per_token("advantages")
    tau = _tau(a, p)
    return -a * (4 / tau) * torch.sigmoid(tau * (ratio_of(log_probs, batch) - 1))
