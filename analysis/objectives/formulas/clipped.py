"""Clipped policy gradients in three forms.

With A the advantage, π_y the probability of the sampled token, ρ = π_y/π_old,y and 1[·] the clip:

    form         loss per token (no clip)     w                   source
    ratio        −A·ρ                         A·ρ·1[not clipped]  the paper's released code (a PPO loss)
    probability  −A·π_y                       A·π_y·1[…]          Zhu et al. (arXiv 2506.01347) Eq. 6
    log          −A·log π_y                   A                   the textbook score function

The clip is PPO's: it binds where A > 0 and ρ > 1 + clip_high, or A < 0 and ρ < 1 − clip_low; dual_clip adds A < 0 and
ρ > dual_clip. The probability form is π_old times the ratio form, hence clipped alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .shared import Parameters

__all__ = [
    "clip_of",
    "policy_gradient_loss",
    "policy_gradient_weight",
]


def clip_of(batch: TokenBatch, p: Parameters) -> Tensor:
    """int8 of the shape of the log-probs: where PPO's clip takes the weight away, −1 below, +1 above."""
    clip = torch.zeros(batch.log_probs.shape, dtype=torch.int8, device=batch.log_probs.device)
    if batch.ratio is None or not _clips(p):
        return clip
    a, ratio = batch.per_token("advantages"), batch.ratio
    # no token is clipped twice; sums of masks cost a tenth of assignments through them
    if p.get("clip_high") is not None:
        clip += (a > 0) & (ratio > 1 + p["clip_high"])
    if p.get("clip_low") is not None:
        clip -= ((a < 0) & (ratio < 1 - p["clip_low"])).to(torch.int8)
    if p.get("dual_clip") is not None:
        clip += (a < 0) & (ratio > p["dual_clip"])
    return clip


def _clips(p: Parameters) -> bool:
    return any(p.get(name) is not None for name in ("clip_low", "clip_high", "dual_clip"))


def policy_gradient_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·x·1[not clipped] with x = ρ, π_y or 1 by the form, and the clip."""
    a, clip = batch.per_token("advantages"), clip_of(batch, p)
    if p["form"] == "log":
        weight = a.clone()
    elif p["form"] == "probability":
        weight = a * batch.log_probs.exp()
    else:
        assert batch.ratio is not None
        weight = a * batch.ratio
    return (weight.masked_fill_(clip.bool(), 0.0) if _clips(p) else weight), clip


def policy_gradient_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−min(A·x, A·clamp(x, x_old·(1 − clip_low), x_old·(1 + clip_high))) with x = ρ, x_old = 1 in ratio form and
    x = π_y, x_old = π_old,y in probability form; dual_clip bounds it by −A·x_old·dual_clip where A < 0."""
    a, old = batch.per_token("advantages"), batch.old_log_probs
    if p["form"] == "log":
        return -a * log_probs
    if p["form"] == "probability":
        x = log_probs.exp()
        scale = torch.ones_like(x) if old is None else old.detach().exp()
    else:
        assert old is not None
        x = torch.exp(log_probs - old.detach())
        scale = torch.ones_like(x)
    low, high, dual = p.get("clip_low"), p.get("clip_high"), p.get("dual_clip")
    if dual is not None:  # torch.maximum of surrogates would halve the gradient at the bound
        x = torch.where(a < 0, torch.clamp(x, max=scale * dual), x)
    surrogate = a * x
    if low is not None or high is not None:
        below = None if low is None else scale * (1 - low)
        above = None if high is None else scale * (1 + high)
        surrogate = torch.minimum(surrogate, a * torch.clamp(x, below, above))
    return -surrogate
