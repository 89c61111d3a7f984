"""KL to a reference policy and entropy: sampled, as a weight of each token, or over the vocabulary, as a vector.

entropy bonus   L = −α·H         ∂L/∂z_v = απ_v(log π_v + H)
full KL         L = β·KL(π‖ref)  ∂L/∂z_v = βπ_v(log(π_v/ref_v) − KL)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from ..token_batch import TokenBatch
from .shared import Parameters, known_ratio, no_clip, ratio_of

__all__ = [
    "entropy_loss",
    "entropy_vector",
    "kl_corrected_loss",
    "kl_corrected_weight",
    "kl_full_loss",
    "kl_full_vector",
    "kl_k1_loss",
    "kl_k1_weight",
    "kl_k2_loss",
    "kl_k2_weight",
    "kl_k3_loss",
    "kl_k3_weight",
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


def kl_full_vector(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """∂L/∂z of the KL to the reference, (…, V)."""
    assert ref_logits is not None
    log_pi = logits.log_softmax(-1)
    gap = log_pi - ref_logits.log_softmax(-1)
    pi = log_pi.exp()
    return p["beta"] * pi * (gap - (pi * gap).sum(-1, keepdim=True))


def kl_full_loss(logits: Tensor, ref_logits: Tensor | None, p: Parameters) -> Tensor:
    """β·KL(π‖ref), (…)."""
    assert ref_logits is not None
    log_ref, log_pi = ref_logits.log_softmax(-1), logits.log_softmax(-1)
    return p["beta"] * kl_div(log_ref, log_pi, reduction="none", log_target=True).sum(-1)
