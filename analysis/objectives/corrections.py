"""Factors of tokens that combine with any objective: corrections for an engine or a policy that sampled otherwise.

    rollout importance sampling   c_t = f(π_old,y/μ_y), of tokens or multiplied over the response; μ is the rollout
                                  engine's, f keeps within the bounds (truncate) or is 0 outside of them (mask)
    rejection                     c_t = 0 where an estimate of the divergence of the two exceeds its bound
    off-policy sequence mask      c_t = 0 on responses with A < 0 and mean_t log(μ_y/π_y) > off_policy_threshold

The factor is not differentiated. It multiplies the loss of each token; where every token carries the loss of its
response (GSPO), it acts by its mean. The estimates are Schulman's, with x = log(π_old,y/μ_y): k1 = −x, k2 = x²/2,
k3 = e^x − 1 − x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .formulas.shared import Parameters, gap_to, length, total
from .token_batch import TokenBatch

__all__ = ["factor_of", "fields_of"]


def fields_of(p: Parameters) -> tuple[str, ...]:
    """The fields of `TokenBatch` that the factor needs."""
    rollout = ("old_log_probs", "rollout_log_probs")
    needed = rollout if p.get("rollout_is") or p.get("rollout_reject") else ()
    return (*needed, *(("advantages", "old_log_probs") if p.get("off_policy_threshold") is not None else ()))


def factor_of(batch: TokenBatch, p: Parameters) -> Tensor | None:
    """The factor of each token, of the shape of the log-probs; None where no correction is set."""
    factors = []
    if p.get("rollout_is"):
        factors.append(_importance(batch, p))
    if p.get("rollout_reject"):
        factors.append(_kept(batch, p))
    if p.get("off_policy_threshold") is not None:
        factors.append(_near(batch, p))
    return torch.stack(factors).prod(0) if factors else None


def _gap(batch: TokenBatch) -> Tensor:
    """log(π_old,y/μ_y), 0 at padding."""
    assert batch.old_log_probs is not None
    gap = gap_to(batch.old_log_probs.detach(), batch.rollout_log_probs)
    return gap.masked_fill(~batch.real(), 0)


def _importance(batch: TokenBatch, p: Parameters) -> Tensor:
    level, _, way = p["rollout_is"].partition("-")
    gap = _gap(batch)
    ratio = (gap.sum(-1, keepdim=True) if level == "sequence" else gap).exp()
    low, high = p.get("rollout_is_low"), p.get("rollout_is_high")
    if way == "truncate":
        return ratio.clamp(low, high).expand_as(gap)
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if low is not None:
        outside |= ratio < low
    if high is not None:
        outside |= ratio > high
    return ratio.masked_fill(outside, 0).expand_as(gap)


def _kept(batch: TokenBatch, p: Parameters) -> Tensor:
    level, _, estimator = p["rollout_reject"].rpartition("-")
    gap = _gap(batch)
    estimate = {"k1": -gap, "k2": gap.square() / 2, "k3": torch.expm1(gap) - gap}[estimator]
    if level == "sequence-sum":
        estimate = estimate.sum(-1, keepdim=True)
    elif level == "sequence-mean":
        estimate = estimate.sum(-1, keepdim=True) / length(batch)
    elif level == "sequence-max":
        estimate = estimate.amax(-1, keepdim=True)
    high = p["rollout_reject_high"]
    kept = estimate <= (math.log(high) if estimator == "k1" else high)
    if estimator == "k1":
        kept &= estimate >= math.log(p.get("rollout_reject_low") or 1 / high)
    return kept.to(gap).expand_as(gap)


def _near(batch: TokenBatch, p: Parameters) -> Tensor:
    """TRL's get_off_policy_mask: against the rollout engine's log-probs where there are any, else the old ones."""
    sampled = batch.old_log_probs if batch.rollout_log_probs is None else batch.rollout_log_probs
    mean = -total(gap_to(batch.log_probs.detach(), sampled), batch) / length(batch)
    return ((batch.per_token("advantages") >= 0) | (mean <= p["off_policy_threshold"])).to(batch.log_probs)
