"""DPPO: a token is dropped where the probability of the sampled token has moved too far from the old one.

    TV    A > 0 and π_y − π_old,y > high,  or A < 0 and π_y − π_old,y < −low
    KL    KL(π_old‖π) of the two-way split (y, not y) exceeds high where A > 0 and π_y rose, low where A < 0 and it fell

where PPO drops by the ratio, whose bound is tight for improbable tokens and loose for probable ones. verl multiplies
log π by a detached ratio that is lowered to a cap; prime-rl differentiates the ratio and adds a penalty on log²ρ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters, cut, gap_to, known_ratio, no_clip, ratio_of

__all__ = [
    "dppo_kl_loss",
    "dppo_kl_weight",
    "dppo_prime_loss",
    "dppo_prime_weight",
    "dppo_tv_loss",
    "dppo_tv_weight",
    "ipo_prime_loss",
    "ipo_prime_weight",
]

_TINY = 1e-8  # added to both probabilities of "not y", as in verl


def _capped(ratio: Tensor, p: Parameters) -> Tensor:
    return ratio if p["ratio_cap"] is None else torch.where(ratio > p["ratio_cap"], p["ratio_cap"], ratio)


def _rise(batch: TokenBatch) -> Tensor:
    """π_y − π_old,y."""
    assert batch.old_log_probs is not None
    return batch.log_probs.exp() - batch.old_log_probs.exp()


def _tv_clip(batch: TokenBatch, p: Parameters) -> Tensor:
    a, rise = batch.per_token("advantages"), _rise(batch)
    clip = no_clip(a)
    clip[(a > 0) & (rise > p["divergence_high"])] = 1
    clip[(a < 0) & (rise < -p["divergence_low"])] = -1
    return clip


def dppo_tv_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·min(ρ, cap)·1[not dropped]."""
    clip = _tv_clip(batch, p)
    return torch.where(clip == 0, batch.per_token("advantages") * _capped(known_ratio(batch), p), 0.0), clip


def dppo_tv_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·sg(min(ρ, cap))·log π_y where |π_y − π_old,y| is within its bound on the side of A."""
    a, kept = batch.per_token("advantages"), _rise(batch)
    kept = torch.where(a > 0, kept <= p["divergence_high"], kept >= -p["divergence_low"]).to(a)
    return -a * cut(ratio_of(log_probs, batch).detach(), None, p["ratio_cap"]) * log_probs * kept


def dppo_kl_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·min(ρ, cap)·1[not dropped]."""
    a, rise = batch.per_token("advantages"), _rise(batch)
    divergence = _two_way_kl(batch)
    clip = no_clip(a)
    clip[(a > 0) & (rise > 0) & (divergence > p["divergence_high"])] = 1
    clip[(a < 0) & (rise < 0) & (divergence > p["divergence_low"])] = -1
    return torch.where(clip == 0, a * _capped(known_ratio(batch), p), 0.0), clip


def _two_way_kl(batch: TokenBatch) -> Tensor:
    """KL(π_old‖π) of the split of the vocabulary into y and all others."""
    assert batch.old_log_probs is not None
    old, new = batch.old_log_probs.exp(), batch.log_probs.exp()
    rest = torch.log((1 - old + _TINY) / (1 - new + _TINY))
    return old * (batch.old_log_probs - batch.log_probs) + (1 - old) * rest


def dppo_kl_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·sg(min(ρ, cap))·log π_y where the KL is within its bound, or the token moved against A."""
    a, near = batch.per_token("advantages"), _two_way_kl(batch)
    ratio = ratio_of(log_probs, batch).detach()
    up = (near <= p["divergence_high"]) | (ratio <= 1)
    down = (near <= p["divergence_low"]) | (ratio >= 1)
    return -a * cut(ratio, None, p["ratio_cap"]) * log_probs * torch.where(a > 0, up, down).to(a)


def _penalised(kept: Tensor, log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·ρ on the kept tokens, plus drift_coef·log²ρ on all of them."""
    drift = gap_to(log_probs, batch.old_log_probs)
    return -batch.per_token("advantages") * kept * drift.exp() + p["drift_coef"] * drift.square()


def _penalised_weight(clip: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    pull = torch.where(clip == 0, batch.per_token("advantages") * known_ratio(batch), 0.0)
    return pull - 2 * p["drift_coef"] * gap_to(batch.log_probs, batch.old_log_probs)


def dppo_prime_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·ρ·1[not dropped] − 2·drift_coef·log ρ."""
    clip = _tv_clip(batch, p)
    return _penalised_weight(clip, batch, p), clip


def dppo_prime_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·ρ on tokens within the bound, plus drift_coef·log²ρ on all of them."""
    a, rise = batch.per_token("advantages"), _rise(batch)
    dropped = torch.where(a > 0, rise > p["divergence_high"], rise < -p["divergence_low"])
    return _penalised((~dropped).to(a), log_probs, batch, p)


def ipo_prime_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·ρ·1[|π_y − π_old,y| within the bound] − 2·drift_coef·log ρ."""
    rise = _rise(batch)
    clip = no_clip(rise)
    clip[rise > p["divergence"]] = 1
    clip[rise < -p["divergence"]] = -1
    return _penalised_weight(clip, batch, p), clip


def ipo_prime_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·ρ where |π_y − π_old,y| is within the bound, plus drift_coef·log²ρ everywhere."""
    near = _rise(batch).abs() <= p["divergence"]
    return _penalised(near.to(log_probs), log_probs, batch, p)
