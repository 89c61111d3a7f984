"""Distillation from a teacher t: sampled, as a weight of each token of the policy's responses, or over the vocabulary.

The reverse KL(π‖t) from samples of the policy has the weight −log(π_y/t_y); as the advantage of a policy gradient,
A = log(t_y/π_y), it takes the ratio and its clip. Over the vocabulary the generalised Jensen-Shannon divergence of GKD
(arXiv 2306.13649 Eq. 1, as in TRL) is, with m = (1 − β)π + βt,

    β = 0  KL(t‖π)       β = 1  KL(π‖t)       else  β·KL(t‖m) + (1 − β)·KL(π‖m)
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..token_batch import TokenBatch
from . import regularisers
from .clipped import policy_gradient_loss, policy_gradient_weight
from .shared import Parameters, cut, gap_to, known_ratio, no_clip

__all__ = [
    "jsd_loss",
    "jsd_vector",
    "opd_abs_loss",
    "opd_abs_weight",
    "opd_iw_loss",
    "opd_iw_weight",
    "opd_k2_loss",
    "opd_k2_weight",
    "opd_k3_loss",
    "opd_k3_weight",
    "opd_loss",
    "opd_prime_loss",
    "opd_prime_weight",
    "opd_weight",
    "topk_loss",
    "topk_vector",
]


def _with_teacher(batch: TokenBatch) -> TokenBatch:
    """The batch with the teacher in the place of the reference policy."""
    return replace(batch, ref_log_probs=batch.teacher_log_probs)


def _lead(batch: TokenBatch, p: Parameters) -> Tensor:
    """A = log(t_y/π_y), cut to ±advantage_max."""
    most = p["advantage_max"]
    return cut(-gap_to(batch.log_probs, batch.teacher_log_probs), None if most is None else -most, most)


def opd_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """ρ·log(t_y/π_y)·1[not clipped]."""
    return policy_gradient_weight(replace(batch, advantages=_lead(batch, p)), {**p, "form": "ratio"})


def opd_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """PPO's loss with the advantage sg(log(t_y/π_y))."""
    return policy_gradient_loss(log_probs, replace(batch, advantages=_lead(batch, p)), {**p, "form": "ratio"})


def opd_prime_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """ρ·log(t_y/π_y) where π_y has not fallen too far, − 2·drift_coef·log ρ everywhere."""
    assert batch.old_log_probs is not None
    clip = no_clip(batch.log_probs)
    clip[batch.log_probs.exp() - batch.old_log_probs.exp() < -p["divergence_low"]] = -1
    pull = -known_ratio(batch) * gap_to(batch.log_probs, batch.teacher_log_probs)
    drift = gap_to(batch.log_probs, batch.old_log_probs)
    return torch.where(clip == 0, pull, 0.0) - 2 * p["drift_coef"] * drift, clip


def opd_prime_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−sg(log(t_y/π_y))·ρ on the kept tokens, plus drift_coef·log²ρ on all of them."""
    assert batch.old_log_probs is not None
    kept = batch.log_probs.exp() - batch.old_log_probs.exp() >= -p["divergence_low"]
    lead = batch.per_token("teacher_log_probs") - log_probs.detach()
    drift = gap_to(log_probs, batch.old_log_probs)
    return -lead * drift.exp() * kept + p["drift_coef"] * drift.square()


def _ahead(batch: TokenBatch) -> Tensor:
    """|a| of the tokens from each one on over that of the whole response, a = log(t_y/π_old,y); zero at padding."""
    assert batch.old_log_probs is not None
    size = gap_to(batch.old_log_probs, batch.teacher_log_probs).abs().masked_fill(~batch.real(), 0)
    return size.flip(-1).cumsum(-1).flip(-1) / size.sum(-1, keepdim=True).clamp(min=_SMALLEST)


_SMALLEST = 1e-8  # TRL's iw_opd_epsilon


def opd_iw_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """(1 + γ·share ahead)·log(t_y/π_old,y)."""
    assert batch.old_log_probs is not None
    lead = -gap_to(batch.old_log_probs, batch.teacher_log_probs)
    return (1 + p["iw_gamma"] * _ahead(batch)) * lead, no_clip(lead)


def opd_iw_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−log π_y·(1 + γ(1 − Σ_{s<t}|a_s|/Σ|a|))·a_t, as TRL has it."""
    a = batch.per_token("teacher_log_probs") - batch.per_token("old_log_probs")
    size = torch.where(batch.real(), a.abs(), 0.0)
    before = size.cumsum(-1) - size
    share = before / size.sum(-1, keepdim=True).clamp(min=_SMALLEST)
    return -log_probs * (1 + p["iw_gamma"] * (1 - share)) * a


def opd_k2_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−log(π_y/t_y)."""
    return regularisers.kl_k2_weight(_with_teacher(batch), p)


def opd_k2_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """½·log²(π_y/t_y)."""
    return regularisers.kl_k2_loss(log_probs, _with_teacher(batch), p)


def opd_k3_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """t_y/π_y − 1."""
    return regularisers.kl_k3_weight(_with_teacher(batch), p)


def opd_k3_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """t_y/π_y − 1 − log(t_y/π_y)."""
    return regularisers.kl_k3_loss(log_probs, _with_teacher(batch), p)


def opd_abs_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """−sign(log(π_y/t_y))."""
    return regularisers.kl_abs_weight(_with_teacher(batch), p)


def opd_abs_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """|log(π_y/t_y)|."""
    return regularisers.kl_abs_loss(log_probs, _with_teacher(batch), p)


# -- over the vocabulary -----------------------------------------------------------------------------------------------


def _mixture(log_pi: Tensor, log_teacher: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(log_pi + math.log1p(-beta), log_teacher + math.log(beta))


def jsd_vector(logits: Tensor, teacher_logits: Tensor | None, p: Parameters) -> Tensor:
    """π_v·(g_v − Σ π g) with g = log(π/t) for β = 1, (1 − β)·log(π/m) between, and π_v − t_v for β = 0; (…, V)."""
    assert teacher_logits is not None
    log_pi, log_teacher, beta = logits.log_softmax(-1), teacher_logits.log_softmax(-1), p["jsd_beta"]
    pi = log_pi.exp()
    if beta == 0:
        return pi - log_teacher.exp()
    if beta == 1:
        regularisers.check_mass(logits, teacher_logits, "teacher_logits")
        slope = regularisers.log_ratio(log_pi, log_teacher)
    else:
        slope = (1 - beta) * regularisers.log_ratio(log_pi, _mixture(log_pi, log_teacher, beta))
    return pi * (slope - (pi * slope).sum(-1, keepdim=True))


def jsd_loss(logits: Tensor, teacher_logits: Tensor | None, p: Parameters) -> Tensor:
    """The generalised Jensen-Shannon divergence of the teacher and the policy, (…)."""
    assert teacher_logits is not None
    log_pi, log_teacher, beta = logits.log_softmax(-1), teacher_logits.log_softmax(-1), p["jsd_beta"]
    if beta == 0:
        return regularisers.divergence(log_teacher, log_pi)
    if beta == 1:
        return regularisers.divergence(log_pi, log_teacher)
    mixture = (1 - beta) * log_pi.exp() + beta * log_teacher.exp()
    log_mixture = mixture.masked_fill(mixture == 0, 1).log()  # without mass in both: no term, and no gradient
    of_teacher = regularisers.divergence(log_teacher, log_mixture)
    return beta * of_teacher + (1 - beta) * regularisers.divergence(log_pi, log_mixture)


def _top(teacher_logits: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """The teacher's most probable tokens (…, k) and their log-probs."""
    log_teacher = teacher_logits.log_softmax(-1)
    found = log_teacher.topk(min(int(p["teacher_top"]), log_teacher.shape[-1]), dim=-1)
    return found.indices, found.values


def topk_vector(logits: Tensor, teacher_logits: Tensor | None, p: Parameters) -> Tensor:
    """π_v·T − t_v·1[v in the top], T = Σ t over the top; 0 where the sum is not positive; (…, V)."""
    assert teacher_logits is not None
    log_pi = logits.log_softmax(-1)
    indices, log_top = _top(teacher_logits, p)
    top = log_top.exp()
    summed = regularisers.divergence(log_top, log_pi.gather(-1, indices))[..., None]
    vector = log_pi.exp() * top.sum(-1, keepdim=True)
    vector = vector.scatter_add(-1, indices, -top)
    return torch.where(summed > 0, vector, 0.0)


def topk_loss(logits: Tensor, teacher_logits: Tensor | None, p: Parameters) -> Tensor:
    """max(0, Σ t_v·log(t_v/π_v)) over the teacher's top tokens, (…)."""
    assert teacher_logits is not None
    indices, log_top = _top(teacher_logits, p)
    chosen = logits.log_softmax(-1).gather(-1, indices)
    return regularisers.divergence(log_top, chosen).clamp(min=0)
