"""Objectives that shape the ratio otherwise than by a hard clip, and those of single tokens' likelihood.

Each has its weight in closed form and its loss as the paper or its code writes it; `entries` gives formula and source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .advantages import Q_RANGE
from .token_batch import TokenBatch

__all__ = [
    "cispo_loss",
    "cispo_weight",
    "kl_corrected_loss",
    "kl_corrected_weight",
    "kl_k1_loss",
    "kl_k1_weight",
    "kl_k2_loss",
    "kl_k2_weight",
    "kl_k3_loss",
    "kl_k3_weight",
    "nft_loss",
    "nft_weight",
    "nft_weight_of",
    "oreal_loss",
    "oreal_weight",
    "sapo_loss",
    "sapo_weight",
    "straight_through_nft",
    "unlikelihood_loss",
    "unlikelihood_weight",
]

Parameters = Mapping[str, Any]
LOG_RATIO_MOST = 10.0  # of NFT: log ρ is clamped there, and has no gradient above


def _ratio(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    assert batch.old_log_probs is not None
    return torch.exp(log_probs - batch.old_log_probs.detach())


def _known_ratio(batch: TokenBatch) -> Tensor:
    assert batch.ratio is not None
    return batch.ratio


def _no_clip(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.int8, device=like.device)


def cispo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·clip(ρ): where the clip binds the ratio is the bound, and the weight stays."""
    ratio = _known_ratio(batch)
    if p["clip_low"] is not None:
        ratio = torch.where(ratio < 1 - p["clip_low"], 1 - p["clip_low"], ratio)
    if p["clip_high"] is not None:
        ratio = torch.where(ratio > 1 + p["clip_high"], 1 + p["clip_high"], ratio)
    return batch.per_token("advantages") * ratio, _no_clip(ratio)


def cispo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−sg(clip ρ)·A·log π_y."""
    low = 0.0 if p["clip_low"] is None else 1 - p["clip_low"]
    high = None if p["clip_high"] is None else 1 + p["clip_high"]
    return -torch.clamp(_ratio(log_probs, batch), low, high).detach() * batch.per_token("advantages") * log_probs


def sapo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """4·A·ρ·σ(1 − σ) with σ = sigmoid(τ(ρ − 1))."""
    a, ratio = batch.per_token("advantages"), _known_ratio(batch)
    x = torch.where(a > 0, p["tau_pos"], p["tau_neg"]).to(a) * (ratio - 1)
    return 4 * a * ratio * torch.sigmoid(x) * torch.sigmoid(-x), _no_clip(a)


def sapo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·(4/τ)·sigmoid(τ(ρ − 1))."""
    a = batch.per_token("advantages")
    tau = torch.where(a > 0, p["tau_pos"], p["tau_neg"]).to(a)
    return -a * (4 / tau) * torch.sigmoid(tau * (_ratio(log_probs, batch) - 1))


def nft_weight_of(log_ratio: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """The row of NFT for a log-ratio of tokens or of sequences, of the shape of `log_ratio`."""
    a, q = batch.per_token("advantages"), batch.per_token("accuracy").clamp(*Q_RANGE)
    ratio = log_ratio.clamp(max=LOG_RATIO_MOST).exp()
    correct = ratio / ratio.clamp(min=p["ratio_floor"])
    incorrect = -(q * ratio / (1 - q)) / ((1 - q * ratio) / (1 - q)).clamp(min=p["epsilon"])
    # ω is |A|; where ρ underflows to 0 so does its ratio to itself
    weight = a.abs() * torch.where(a > 0, torch.nan_to_num(correct, nan=1.0), incorrect)
    return torch.where(log_ratio > LOG_RATIO_MOST, 0.0, weight)


def straight_through_nft(log_ratio: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−ω·log R for correct and −ω·log((1 − qR)/(1 − q)) for wrong responses, each maximum straight through."""
    a, q = batch.per_token("advantages"), batch.per_token("accuracy").clamp(*Q_RANGE)
    near = log_ratio.clamp(max=LOG_RATIO_MOST)
    if p["ratio_floor"] > 0:
        ratio = near.exp()
        correct = (ratio + (ratio.clamp(min=p["ratio_floor"]) - ratio).detach()).log()
    else:
        correct = near
    implied = (1 - q * near.exp()) / (1 - q)
    incorrect = (implied + (implied.clamp(min=p["epsilon"]) - implied).detach()).log()
    return -a.abs() * torch.where(a > 0, correct, incorrect)


def nft_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """NFT of tokens."""
    assert batch.old_log_probs is not None
    return nft_weight_of(batch.log_probs - batch.old_log_probs, batch, p), _no_clip(batch.log_probs)


def nft_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """NFT of tokens."""
    assert batch.old_log_probs is not None
    return straight_through_nft(log_probs - batch.old_log_probs.detach(), batch, p)


def _token_weights(batch: TokenBatch) -> Tensor:
    return torch.ones_like(batch.log_probs) if batch.token_weights is None else batch.per_token("token_weights")


def oreal_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """ω_t·A, with α in A for correct responses (see `advantages`)."""
    return _token_weights(batch) * batch.per_token("advantages"), _no_clip(batch.log_probs)


def oreal_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """Correct: −α·ω_t·log π_y; wrong: −ω_t·A·ρ with the ratio of the policy to itself."""
    a, correct = batch.per_token("advantages"), batch.per_token("rewards") > 0
    return -_token_weights(batch) * a * torch.where(correct, log_probs, (log_probs - log_probs.detach()).exp())


def unlikelihood_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·π_y/(1 − π_y), 0 where 1 − π_y is below the floor."""
    rest = -torch.expm1(batch.log_probs)
    weight = batch.per_token("advantages") * batch.log_probs.exp() / rest.clamp(min=p["floor"])
    return torch.where(rest >= p["floor"], weight, 0.0), _no_clip(rest)


def unlikelihood_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """A·log(max(1 − π_y, floor)); 1 − π_y as −expm1(log π_y), which a difference of floats would lose."""
    return batch.per_token("advantages") * torch.log(torch.clamp(-torch.expm1(log_probs), min=p["floor"]))


# -- to a reference ----------------------------------------------------------------------------------------------------


def kl_k1_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β."""
    return torch.full_like(batch.log_probs, -p["beta"]), _no_clip(batch.log_probs)


def kl_k1_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·log(π_y/ref_y)."""
    return p["beta"] * (log_probs - batch.per_token("ref_log_probs"))


def kl_k2_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·log(π_y/ref_y)."""
    return p["beta"] * (batch.per_token("ref_log_probs") - batch.log_probs), _no_clip(batch.log_probs)


def kl_k2_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·½·log²(π_y/ref_y)."""
    return p["beta"] * (log_probs - batch.per_token("ref_log_probs")).square() / 2


def kl_k3_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """β·(ref_y/π_y − 1), 0 where k3 exceeds the clamp."""
    back = batch.per_token("ref_log_probs") - batch.log_probs
    weight = p["beta"] * torch.expm1(back)
    if p["clamp"] is not None:
        weight = torch.where(torch.expm1(back) - back > p["clamp"], 0.0, weight)
    return weight, _no_clip(back)


def kl_k3_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·(ref_y/π_y − 1 − log(ref_y/π_y)), clamped from above."""
    back = batch.per_token("ref_log_probs") - log_probs
    estimate = back.exp() - 1 - back
    return p["beta"] * (estimate if p["clamp"] is None else estimate.clamp(max=p["clamp"]))


def kl_corrected_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·ρ·log(π_y/ref_y)."""
    gap = batch.log_probs - batch.per_token("ref_log_probs")
    return -p["beta"] * _known_ratio(batch) * gap, _no_clip(gap)


def kl_corrected_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·ρ·k3."""
    back = batch.per_token("ref_log_probs") - log_probs
    return p["beta"] * _ratio(log_probs, batch) * (back.exp() - 1 - back)
