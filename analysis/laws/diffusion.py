"""Drift and diffusion of one update of a softmax context: its mean, its covariance, and what they do to the entropy.

For a mean of n sampled directions w_a(e_a − π), E Δz = η·m and Cov Δz = η²·C/n with m = E[w s], C = Cov[w s]
(`toy_models.Bandit.expected_score` and `score_covariance`). To second order

    E ΔH = η·g·m + ½η²·tr(∇²H·(C/n + m mᵀ)),    g = ∂H/∂z,
    ∇²H = diag(g) − g πᵀ − π gᵀ − diag(π) + π πᵀ.

PSR and NSR share m; their covariances differ by E[(2r − 1) s sᵀ], so after one step their entropies differ by
½η²·tr(∇²H·E[(2r − 1) s sᵀ])/n (derived here).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from .checks import check_logits
from .entropy import entropy_vector

__all__ = ["covariance_gap", "entropy_hessian", "second_order_entropy_change"]


@torch.no_grad()
def entropy_hessian(logits: Tensor) -> Tensor:
    """∇²H with respect to the logits, (…, vocab, vocab); rows sum to zero.

    >>> entropy_hessian(torch.zeros(2))  # H = log 2 − Δ²/8 in the difference Δ of two logits
    tensor([[-0.2500,  0.2500],
            [ 0.2500, -0.2500]])
    """
    z = check_logits(logits)
    g, pi = entropy_vector(z), torch.softmax(z, -1)
    cross = g.unsqueeze(-1) * pi.unsqueeze(-2)
    return torch.diag_embed(g - pi) - cross - cross.mT + pi.unsqueeze(-1) * pi.unsqueeze(-2)


@torch.no_grad()
def second_order_entropy_change(logits: Tensor, mean: Tensor, covariance: Tensor, step: float) -> Tensor:
    """E ΔH (…) in nats to second order, for a logit step of mean step·mean and covariance step²·covariance.

    mean (…, vocab); covariance (…, vocab, vocab), already divided by the number of samples that are averaged.
    Raises UsageError for shapes that do not fit.
    """
    z = check_logits(logits)
    if mean.shape != z.shape or covariance.shape != (*z.shape, z.shape[-1]):
        raise UsageError(
            f"mean, covariance: expected {tuple(z.shape)} and {(*z.shape, z.shape[-1])}, got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}"
        )
    second = covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2)
    curvature = (entropy_hessian(z) * second).sum((-1, -2))
    return step * (entropy_vector(z) * mean).sum(-1) + step**2 / 2 * curvature


@torch.no_grad()
def covariance_gap(logits: Tensor, correct: Tensor) -> Tensor:
    """Cov_PSR − Cov_NSR = E[(2r − 1) s sᵀ] of one sample, (…, vocab, vocab); `correct` bool (…, vocab).

    Indefinite in general; its trace E[(2r − 1)‖s‖²] is positive where PSR is the noisier, negative where NSR is.

    >>> covariance_gap(torch.zeros(4), torch.tensor([True, False, False, False])).trace() < 0
    tensor(True)
    """
    z = check_logits(logits)
    if correct.dtype != torch.bool or correct.shape not in (z.shape, z.shape[-1:]):
        raise UsageError(f"correct: expected a bool mask like logits {tuple(z.shape)}, got {tuple(correct.shape)}")
    pi = torch.softmax(z, -1)
    signed = pi * (2 * correct.to(pi.dtype) - 1)
    cross = signed.unsqueeze(-1) * pi.unsqueeze(-2)
    total = signed.sum(-1)[..., None, None]
    return torch.diag_embed(signed) - cross - cross.mT + total * pi.unsqueeze(-1) * pi.unsqueeze(-2)
