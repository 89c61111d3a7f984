"""The logit gradient of one token: every objective that sees the policy through log π_y alone pushes along e_y − π.

With weight w = −∂L/∂log π_y, the descent direction is −∂L/∂z = w·(e_y − π) (Zhu et al., arXiv 2506.01347, Eqs. 7 and 8
for w = R·π_y). At temperature T the law is softmax(z/T) and the chain rule adds a factor 1/T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_logits, check_temperature, check_tokens, per_token
from .softmax import TokenStatistics

__all__ = ["GradientNorms", "batch_logit_step", "gradient_norms", "logit_gradient"]


class GradientNorms(NamedTuple):
    """Norms of w·(e_y − π) / T."""

    l1: Tensor
    l2: Tensor


@torch.no_grad()
def logit_gradient(logits: Tensor, tokens: Tensor, weight: float | Tensor, *, temperature: float = 1.0) -> Tensor:
    """Dense descent direction w·(e_y − π)/T of shape (…, vocab); minus the gradient of −w·log π_y.

    logits (…, vocab), tokens (…), weight one number or (…). The entry of y is the sum of the others with its sign
    turned, so it keeps its relative accuracy where 1 − π_y rounds to zero, and the rows sum to zero.
    Raises UsageError for non-finite input, ids outside the vocabulary and shapes that do not fit.

    >>> logit_gradient(torch.zeros(4), torch.tensor(1), -2.0)
    tensor([ 0.5000, -1.5000,  0.5000,  0.5000])
    """
    check_temperature(temperature)
    z = check_logits(logits)
    check_tokens(logits, tokens)
    y = tokens.unsqueeze(-1).long()
    rest = torch.softmax(z / temperature, -1).scatter_(-1, y, 0)
    factor = (per_token("weight", weight, z[..., 0]) / temperature).unsqueeze(-1)
    one_minus_prob = rest.sum(-1, keepdim=True)
    return (rest.mul_(-factor)).scatter_(-1, y, (factor * one_minus_prob).expand(y.shape))


@torch.no_grad()
def gradient_norms(stats: TokenStatistics, weight: float | Tensor, *, temperature: float = 1.0) -> GradientNorms:
    """‖w(e_y − π)/T‖₁ = 2|w|(1 − π_y)/T and ‖w(e_y − π)/T‖₂ = |w|·‖e_y − π‖/T from statistics alone, each (…).

    >>> from analysis.laws import dense_statistics
    >>> gradient_norms(dense_statistics(torch.zeros(4), torch.tensor(1)), -2.0)
    GradientNorms(l1=tensor(3.), l2=tensor(1.7321))
    """
    check_temperature(temperature)
    factor = per_token("weight", weight, stats.log_prob).abs() / temperature
    return GradientNorms(2 * factor * stats.one_minus_prob, factor * stats.direction_norm)


@torch.no_grad()
def batch_logit_step(probs: Tensor, tokens: Tensor, weights: Tensor, step: float = 1.0) -> Tensor:
    """Logit step of several samples of one context, Δz_v = η[Σ_{i: y_i=v} w_i − π_v Σ_i w_i], of the shape of probs.

    probs (…, vocab); tokens and weights (…, samples). Tokens without a sample of their own see the net weight only:
    where the weights of a group sum to zero, nothing is redistributed among them in proportion to the prior.

    >>> batch_logit_step(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0, 1]), torch.tensor([1.0, -1.0]))
    tensor([ 1., -1.,  0.])
    """
    check_tokens(probs.unsqueeze(-2).expand(*tokens.shape, probs.shape[-1]), tokens)
    w = per_token("weights", weights, tokens.to(probs.dtype)).expand(tokens.shape)
    received = torch.zeros_like(probs).scatter_add_(-1, tokens.long(), w)
    delta = received - probs * w.sum(-1, keepdim=True)
    # The rows sum to zero; at the most probable token 1 − π_v has rounded, its value is what the others leave.
    top = probs.argmax(-1, keepdim=True)
    return step * delta.scatter(-1, top, 0).scatter_add(-1, top, -delta.scatter(-1, top, 0).sum(-1, keepdim=True))
