"""KL to a reference policy and entropy: sampled, as a weight of each token, or over the vocabulary, as a vector.

entropy bonus   L = −α·H         ∂L/∂z_v = απ_v(log π_v + H)
full KL         L = β·KL(π‖ref)  ∂L/∂z_v = βπ_v(log(π_v/ref_v) − KL)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UsageError, at_index, first_index
from ..token_batch import TokenBatch
from .shared import Parameters, known_ratio, no_clip, ratio_of, straight_through

__all__ = [
    "check_mass",
    "divergence",
    "entropy_loss",
    "entropy_vector",
    "kl_abs_loss",
    "kl_abs_weight",
    "kl_corrected_loss",
    "kl_corrected_weight",
    "kl_full_loss",
    "kl_full_vector",
    "kl_k1_loss",
    "kl_k1_plus_loss",
    "kl_k1_plus_weight",
    "kl_k1_weight",
    "kl_k2_loss",
    "kl_k2_weight",
    "kl_k3_loss",
    "kl_k3_plus_loss",
    "kl_k3_plus_weight",
    "kl_k3_weight",
    "kl_of",
    "log_ratio",
]


def kl_k1_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β."""
    return torch.full_like(batch.log_probs, -p["beta"]), no_clip(batch.log_probs)


def kl_k1_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·log(π_y/ref_y)."""
    return p["beta"] * (log_probs - batch.per_token("ref_log_probs"))


def kl_k2_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·log(π_y/ref_y)."""
    return p["beta"] * (batch.per_token("ref_log_probs") - batch.log_probs), no_clip(batch.log_probs)


def kl_k2_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·½·log²(π_y/ref_y)."""
    return p["beta"] * (log_probs - batch.per_token("ref_log_probs")).square() / 2


def kl_k3_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """β·(ref_y/π_y − 1), 0 where k3 exceeds the clamp."""
    back = batch.per_token("ref_log_probs") - batch.log_probs
    weight = p["beta"] * torch.expm1(back)
    if p["clamp"] is not None:
        weight = torch.where(torch.expm1(back) - back > p["clamp"], 0.0, weight)
    return weight, no_clip(back)


def kl_k3_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·(ref_y/π_y − 1 − log(ref_y/π_y)), clamped from above."""
    back = batch.per_token("ref_log_probs") - log_probs
    estimate = back.exp() - 1 - back
    return p["beta"] * (estimate if p["clamp"] is None else estimate.clamp(max=p["clamp"]))


def kl_k1_plus_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·log(π_y/ref_y)."""
    return kl_k2_weight(batch, p)


def kl_k1_plus_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """The value of k1 with the gradient of k2."""
    return straight_through(kl_k1_loss(log_probs, batch, p), kl_k2_loss(log_probs, batch, p))


def kl_k3_plus_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·log(π_y/ref_y)."""
    return kl_k2_weight(batch, p)


def kl_k3_plus_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """The value of k3 with the gradient of k2."""
    return straight_through(kl_k3_loss(log_probs, batch, {**p, "clamp": None}), kl_k2_loss(log_probs, batch, p))


def kl_abs_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·sign(log(π_y/ref_y))."""
    return p["beta"] * (batch.per_token("ref_log_probs") - batch.log_probs).sign(), no_clip(batch.log_probs)


def kl_abs_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·|log(π_y/ref_y)|."""
    return p["beta"] * (log_probs - batch.per_token("ref_log_probs")).abs()


def kl_corrected_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−β·ρ·log(π_y/ref_y)."""
    gap = batch.log_probs - batch.per_token("ref_log_probs")
    return -p["beta"] * known_ratio(batch) * gap, no_clip(gap)


def kl_corrected_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """β·ρ·k3."""
    back = batch.per_token("ref_log_probs") - log_probs
    return p["beta"] * ratio_of(log_probs, batch) * (back.exp() - 1 - back)


def entropy_vector(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """∂L/∂z of the entropy bonus, (…, V); tokens of logit −inf get 0."""
    log_pi = logits.log_softmax(-1)
    pi = log_pi.exp()
    finite = log_pi.masked_fill(log_pi == -torch.inf, 0)
    entropy = -(pi * finite).sum(-1, keepdim=True)
    return p["alpha"] * pi * (finite + entropy)


def entropy_loss(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """−α·(log Z − Σ π z), (…)."""
    inner = (logits.softmax(-1) * logits.masked_fill(logits == -torch.inf, 0)).sum(-1)
    return -p["alpha"] * (logits.logsumexp(-1) - inner)


def kl_of(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π‖ref) = Σ π log(π/ref) in nats, (…), differentiable in the logits.

    Columns of logit −inf contribute nothing, whatever the reference has there; where the reference alone has −inf the
    divergence is infinite.
    """
    return divergence(logits.log_softmax(-1), ref_logits.log_softmax(-1))


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p·log(p/q) over the last axis, differentiable in both; columns where p has no mass contribute nothing."""
    return (log_p.exp() * log_ratio(log_p, log_q)).sum(-1)


def log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(p/q), 0 where p has no mass: 0·log 0 = 0 there, and no gradient."""
    excluded = log_p == -torch.inf
    return log_p.masked_fill(excluded, 0) - log_q.masked_fill(excluded, 0)


def check_mass(logits: Tensor, other: Tensor, name: str) -> None:
    """UsageError where the other distribution has no mass and the policy has: their divergence is infinite there."""
    infinite = (other == -torch.inf) & (logits > -torch.inf)
    if infinite.any():
        raise UsageError(
            f"{name}: expected mass wherever the policy has it, got −inf{at_index(first_index(infinite))}; the "
            "divergence is infinite there"
        )


def kl_full_vector(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """∂L/∂z of the KL to the reference, (…, V)."""
    assert ref_logits is not None
    check_mass(logits, ref_logits, "ref_logits")
    pi, gap = logits.softmax(-1), log_ratio(logits.log_softmax(-1), ref_logits.log_softmax(-1))
    return p["beta"] * pi * (gap - (pi * gap).sum(-1, keepdim=True))


def kl_full_loss(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """β·KL(π‖ref), (…)."""
    assert ref_logits is not None
    return p["beta"] * kl_of(logits, ref_logits)
