"""Objectives whose tokens are coupled over their response.

    GSPO, LUSPO   loss of the sequence  −min(s·A, clip(s)·A),  s = exp(mean_t log ρ_t)
    GSPO-token    loss of the token     −min(s_t·A, clip(s_t)·A),  s_t = sg(s)·π_y/sg(π_y)
    GMPO          loss of the sequence  −A·exp(mean_t c_t),  c_t = log ρ_t cut on the side of A
    VESPO         loss of the token     −sg(φ(W))·A·log π_y,  W = Π_t ρ_t,  φ(W) = exp(λ + k·log W − λ·W)

A loss of the sequence stands at each of its tokens, so that its weight lacks the 1/|y| that the sequence mean brings.

Still one scalar for each token: the gradient of a loss of Σ_t log π_t(y_t) is the same weight on every token. Sums run
over the last axis and leave masked positions out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, choose, cut, gap_to, length, no_clip, total

__all__ = [
    "gmpo_loss",
    "gmpo_weight",
    "gspo_loss",
    "gspo_token_loss",
    "gspo_token_weight",
    "gspo_weight",
    "topr_loss",
    "topr_weight",
    "vespo_loss",
    "vespo_weight",
]

_FARTHEST = 20.0  # VESPO in TRL: |log ρ| of a token, and log W, are cut there
_LEAST = math.log(1e-8)  # VESPO in TRL: log W is raised to this


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


def gspo_token_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A_t·s·1[s not clipped on the side of A_t], 0 where log s exceeds log_ratio_max."""
    weight, clip = gspo_weight(batch, p)
    if p["log_ratio_max"] is not None:
        mean = total(gap_to(batch.log_probs, batch.old_log_probs), batch) / length(batch)
        clip = torch.where(mean > p["log_ratio_max"], 1, clip).to(clip)
    return weight.masked_fill(clip != 0, 0.0), clip


def gspo_token_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−min(s_t·A, clip(s_t)·A) with s_t = sg(s)·π_y/sg(π_y)."""
    a = batch.per_token("advantages")
    mean = (total(gap_to(log_probs, batch.old_log_probs), batch) / length(batch)).detach()
    s = cut(log_probs - log_probs.detach() + mean, None, p["log_ratio_max"]).exp()
    low = 0.0 if p["clip_low"] is None else 1 - p["clip_low"]
    high = None if p["clip_high"] is None else 1 + p["clip_high"]
    return -torch.minimum(s * a, s.clamp(low, high) * a)


def gmpo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·exp(mean of the cut log-ratios) on the tokens that are not cut."""
    a, gap = batch.per_token("advantages"), gap_to(batch.log_probs, batch.old_log_probs)
    clip, cut = no_clip(a), gap
    if p["log_clip_high"] is not None:
        clip[(a > 0) & (gap > p["log_clip_high"])] = 1
        cut = torch.where(clip == 1, p["log_clip_high"], cut)
    if p["log_clip_low"] is not None:
        clip[(a < 0) & (gap < -p["log_clip_low"])] = -1
        cut = torch.where(clip == -1, -p["log_clip_low"], cut)
    mean = total(cut, batch) / length(batch)
    return torch.where(clip == 0, a * mean.exp(), 0.0), clip


def gmpo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·Π_t (ρ_t cut)^(1/|y|), the loss of the sequence, at each of its tokens."""
    a, gap = batch.per_token("advantages"), gap_to(log_probs, batch.old_log_probs)
    low = None if p["log_clip_low"] is None else -p["log_clip_low"]
    inside = cut(gap, low, p["log_clip_high"])
    bounded = torch.where(a > 0, torch.minimum(gap, inside), torch.maximum(gap, inside))
    return -a * (total(bounded, batch) / length(batch)).exp()


def _log_weight(batch: TokenBatch, p: Parameters) -> Tensor:
    """log W of VESPO, (…, 1), with the factors of a rollout correction in it."""
    parts = gap_to(batch.log_probs, batch.old_log_probs).clamp(-_FARTHEST, _FARTHEST)
    if (factor := p.get("factor")) is not None:
        parts = parts + factor.log().clamp(_LEAST, _FARTHEST)
    return total(parts, batch).clamp(_LEAST, _FARTHEST)


def vespo_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·φ(W), k and λ by the sign of A."""
    a, log_w = batch.per_token("advantages"), _log_weight(batch, p)
    k = choose(a >= 0, p["vespo_k_pos"], p["vespo_k_neg"], a)
    rate = choose(a >= 0, p["vespo_lambda_pos"], p["vespo_lambda_neg"], a)
    return a * (k * log_w - rate * torch.expm1(log_w)).exp(), no_clip(a)


def vespo_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·sg(W^k·e^(λ(1 − W)))·log π_y."""
    a, w = batch.per_token("advantages"), _log_weight(batch, p).exp()
    above = w ** p["vespo_k_pos"] * (p["vespo_lambda_pos"] * (1 - w)).exp()
    below = w ** p["vespo_k_neg"] * (p["vespo_lambda_neg"] * (1 - w)).exp()
    return -a * torch.where(a >= 0, above, below).detach() * log_probs
