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
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from ..common.arguments import check_float, check_number
from ..errors import UsageError
from .checks import check_bool, check_logits
from .entropy import entropy_vector

__all__ = ["covariance_gap", "entropy_hessian", "second_order_entropy_change"]


@torch.no_grad()
def entropy_hessian(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab vocab"]:
    """The Hessian of the entropy in the logits, ∇²H = diag(g) − g πᵀ − π gᵀ − diag(π) + π πᵀ with g = ∂H/∂z.

    Args:
        logits: z of π = softmax(z); −inf masks a token.

    Returns:
        Symmetric matrices whose rows sum to zero; nats per squared unit of logit.

    Raises:
        UsageError: logits that are not finite.

    Source: derived here (†).

    >>> entropy_hessian(torch.zeros(2))  # H = log 2 − Δ²/8 in the difference Δ of two logits
    tensor([[-0.2500,  0.2500],
            [ 0.2500, -0.2500]])
    """
    z = check_logits(logits)
    g, pi = entropy_vector(z), torch.softmax(z, -1)
    cross = _outer(g, pi)
    return torch.diag_embed(g - pi) - cross - cross.mT + _outer(pi, pi)


@torch.no_grad()
def second_order_entropy_change(
    logits: Float[Tensor, "*batch vocab"],
    mean: Float[Tensor, "*batch vocab"],
    covariance: Float[Tensor, "*batch vocab vocab"],
    step: float,
) -> Float[Tensor, "*batch"]:
    """E ΔH to second order, η·g·m + ½η²·tr(∇²H·(C + m mᵀ)), for a random logit step η·X with mean m and covariance C.

    Args:
        logits: z before the step.
        mean: m = E X.
        covariance: C = Cov X, already divided by the number of samples that X averages.
        step: η in units of the logits.

    Returns:
        The expected change of entropy in nats.

    Raises:
        UsageError: logits that are not finite, shapes that do not fit.

    Source: derived here (†).
    """
    z = check_logits(logits)
    check_float("mean", mean)
    check_float("covariance", covariance)
    check_number("step", step)
    if mean.shape != z.shape or covariance.shape != (*z.shape, z.shape[-1]):
        raise UsageError(
            f"mean, covariance: expected {tuple(z.shape)} and {(*z.shape, z.shape[-1])}, got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}"
        )
    second = covariance + _outer(mean, mean)
    curvature = reduce(entropy_hessian(z) * second, "... u v -> ...", "sum")
    return step * (entropy_vector(z) * mean).sum(-1) + step**2 / 2 * curvature


@torch.no_grad()
def covariance_gap(
    logits: Float[Tensor, "*batch vocab"], correct: Bool[Tensor, "*#batch vocab"]
) -> Float[Tensor, "*batch vocab vocab"]:
    """Cov_PSR − Cov_NSR = E[(2r − 1) s sᵀ] of one sample, with s = e_a − π.

    It is indefinite in general. Its trace E[(2r − 1)‖s‖²] is positive where PSR is the noisier of the two.

    Args:
        logits: z of π = softmax(z).
        correct: r = 1 for which tokens; of the shape of the logits, or one mask (vocab,) for all rows.

    Returns:
        Symmetric matrices.

    Raises:
        UsageError: logits that are not finite, a mask that is not bool or does not fit.

    Source: derived here (†).

    >>> covariance_gap(torch.zeros(4), torch.tensor([True, False, False, False])).trace() < 0
    tensor(True)
    """
    z = check_logits(logits)
    one_mask_for_all = isinstance(correct, Tensor) and correct.shape == z.shape[-1:]
    check_bool("correct", correct, tuple(z.shape[-1:] if one_mask_for_all else z.shape), "logits")
    pi = torch.softmax(z, -1)
    signed = pi * (2 * correct.to(pi.dtype) - 1)
    cross = _outer(signed, pi)
    return torch.diag_embed(signed) - cross - cross.mT + _outer(signed.sum(-1, keepdim=True) * pi, pi)


def _outer(left: Float[Tensor, "*batch u"], right: Float[Tensor, "*batch v"]) -> Float[Tensor, "*batch u v"]:
    return rearrange(left, "... u -> ... u 1") * rearrange(right, "... v -> ... 1 v")
