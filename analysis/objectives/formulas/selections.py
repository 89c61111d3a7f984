"""Policy gradients that change the weight of chosen tokens; `selection` chooses them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from .clipped import clip_of, policy_gradient_loss, policy_gradient_weight
from .shared import Parameters

__all__ = [
    "kl_cov_loss",
    "kl_cov_weight",
    "selected_loss",
    "selected_weight",
    "unselected_loss",
    "unselected_weight",
]


def selected_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """PPO's weight on the selected tokens alone."""
    weight, clip = policy_gradient_weight(batch, {**p, "form": "ratio"})
    return torch.where(batch.per_token("selection"), weight, 0.0), clip


def selected_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """PPO's loss, times 1 on the selected tokens and 0 elsewhere."""
    return policy_gradient_loss(log_probs, batch, {**p, "form": "ratio"}) * batch.per_token("selection").to(log_probs)


def unselected_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """PPO's weight on all but the selected tokens."""
    weight, clip = policy_gradient_weight(batch, {**p, "form": "ratio"})
    return torch.where(batch.per_token("selection"), 0.0, weight), clip


def unselected_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """PPO's loss, which the selected tokens see as a constant."""
    keeps = ~batch.per_token("selection")
    return policy_gradient_loss(torch.where(keeps, log_probs, log_probs.detach()), batch, {**p, "form": "ratio"})


def kl_cov_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·ρ − κ·sign(log ρ)·1[selected]."""
    assert batch.old_log_probs is not None
    gap = batch.log_probs - batch.old_log_probs
    penalty = torch.where(batch.per_token("selection"), p["kappa"] * gap.sign(), 0.0)
    return batch.per_token("advantages") * gap.exp() - penalty, clip_of(batch, {})


def kl_cov_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−A·ρ, plus κ·|log ρ| on the selected tokens."""
    assert batch.old_log_probs is not None
    gap = log_probs - batch.old_log_probs.detach()
    return -batch.per_token("advantages") * gap.exp() + p["kappa"] * gap.abs() * batch.per_token("selection")
