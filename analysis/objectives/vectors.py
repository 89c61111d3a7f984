"""Regularisers whose gradient in the logits is a vector of its own, not a weight times e_y − π.

entropy bonus   L = −α·H         ∂L/∂z_v = απ_v(log π_v + H)
full KL         L = β·KL(π‖ref)  ∂L/∂z_v = βπ_v(log(π_v/ref_v) − KL)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

__all__ = ["entropy_loss", "entropy_vector", "kl_full_loss", "kl_full_vector"]

Parameters = Mapping[str, Any]


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
