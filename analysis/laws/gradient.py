"""The logit gradient of one token: every objective that sees the policy through log π_y alone pushes along e_y − π.

With weight w = −∂L/∂log π_y, the descent direction is −∂L/∂z = w·(e_y − π) (Zhu et al., arXiv 2506.01347, Eqs. 7 and 8
for w = R·π_y). At temperature T the distribution is softmax(z/T) and the chain rule adds a factor 1/T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..common.arguments import check_float, check_number, check_real, check_tensor
from ..common.short_repr import short_repr
from ..errors import UsageError
from .checks import PerToken, check_logits, check_temperature, check_tokens, per_token
from .softmax import TokenStatistics, check_statistics

__all__ = ["GradientNorms", "batch_logit_step", "gradient_norms", "logit_gradient"]


@short_repr
class GradientNorms(NamedTuple):
    """Norms of the logit gradient w·(e_y − π)/T of each token."""

    l1: Float[Tensor, "*batch"]  # ‖·‖₁ = 2|w|(1 − π_y)/T
    l2: Float[Tensor, "*batch"]  # ‖·‖₂ = |w|·‖e_y − π‖/T


@torch.no_grad()
def logit_gradient(
    logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"], weight: PerToken, *, temperature: float = 1.0
) -> Float[Tensor, "*batch vocab"]:
    """The descent direction w·(e_y − π)/T in the logits: minus the gradient of −w·log π_y.

    The entry of y is the sum of the others with its sign turned. It therefore keeps its relative accuracy where 1 − π_y
    rounds to zero, and the rows sum to zero.

    Args:
        logits: z; −inf masks a token. Half precision is promoted to float32.
        tokens: sampled ids y.
        weight: w = −∂L/∂log π_y; positive pushes y up.
        temperature: T of π = softmax(z/T).

    Returns:
        A dense tensor of the shape of `logits`, per unit of the learning rate.

    Raises:
        UsageError: logits that are not finite, ids outside the vocabulary, shapes that do not fit.

    Source: Zhu et al., arXiv 2506.01347, Eqs. 7 and 8.

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
def gradient_norms(stats: TokenStatistics, weight: PerToken, *, temperature: float = 1.0) -> GradientNorms:
    """‖w(e_y − π)/T‖₁ = 2|w|(1 − π_y)/T and ‖w(e_y − π)/T‖₂ = |w|·‖e_y − π‖/T, from statistics alone.

    Args:
        stats: statistics of softmax(z/T) at the sampled tokens.
        weight: w of each token, or one number.
        temperature: the T that the statistics were made with.

    Returns:
        Both norms, of the shape of the tokens.

    Raises:
        UsageError: a weight that is not finite or of another shape.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> gradient_norms(dense_statistics(torch.zeros(4), torch.tensor(1)), -2.0)
    GradientNorms(l1=tensor(3.), l2=tensor(1.7321))
    """
    check_temperature(temperature)
    check_statistics(stats)
    factor = per_token("weight", weight, stats.log_prob).abs() / temperature
    return GradientNorms(2 * factor * stats.one_minus_prob, factor * stats.direction_norm)


@torch.no_grad()
def batch_logit_step(
    probs: Float[Tensor, "*batch vocab"],
    tokens: Int[Tensor, "*batch samples"],
    weights: Float[Tensor, "*batch samples"],
    step: float = 1.0,
) -> Float[Tensor, "*batch vocab"]:
    """The logit step of several samples of one context, Δz_v = η[Σ_{i: y_i=v} w_i − π_v Σ_i w_i].

    A token that was not sampled sees the net weight only: where the weights of a group sum to zero, nothing moves
    among the unsampled tokens.

    Args:
        probs: π of each context.
        tokens: sampled ids y_i.
        weights: w_i of each sample.
        step: η, the learning rate in units of the logits.

    Returns:
        Δz, whose rows sum to zero.

    Raises:
        UsageError: ids outside the vocabulary, weights of another shape than `tokens`.

    Source: the sum of Eqs. 7 and 8 of arXiv 2506.01347 over samples (†).

    >>> batch_logit_step(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0, 1]), torch.tensor([1.0, -1.0]))
    tensor([ 1., -1.,  0.])
    """
    check_float("probs", probs)
    check_tensor("tokens", tokens)
    check_real("weights", weights)
    if probs.ndim < 1 or probs.shape[-1] < 1 or tokens.ndim < 1 or tokens.shape[:-1] != probs.shape[:-1]:
        raise UsageError(
            "probs, tokens: expected shapes (…, vocab) and (…, samples) with the same leading axes, got "
            f"{tuple(probs.shape)} and {tuple(tokens.shape)}"
        )
    check_tokens(probs.unsqueeze(-2).expand(*tokens.shape, probs.shape[-1]), tokens)
    check_number("step", step)
    w = per_token("weights", weights, tokens.to(probs.dtype)).expand(tokens.shape)
    received = torch.zeros_like(probs).scatter_add_(-1, tokens.long(), w)
    delta = received - probs * w.sum(-1, keepdim=True)
    # The rows sum to zero; at the most probable token 1 − π_v has rounded, its value is what the others leave.
    top = probs.argmax(-1, keepdim=True)
    return step * delta.scatter(-1, top, 0).scatter_add(-1, top, -delta.scatter(-1, top, 0).sum(-1, keepdim=True))
