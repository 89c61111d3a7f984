"""Entropy and KL divergence of a softmax, their gradients in the logits, and what one token's update does to entropy.

Everything is in nats. The vectors are ∂H/∂z_v = −π_v(log π_v + H) and ∂KL(π‖ref)/∂z_v = π_v(log(π_v/ref_v) − KL). Under
Δz = ηw(e_y − π), with S = Σπ² log π and c = Σπ², to first order (derived here)

    dH = −ηw[π_y(log π_y + H) − S − cH] = −ηw·Cov_{v~π}(log π_v, 1{v=y} − π_v),

the change under the token's own push; in a network the rest of the batch moves the context as well.

Log Z cancels in all of them, so they are computed from s = z − max z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..common.arguments import check_tensor
from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index
from .checks import PerToken, check_logits
from .mass_flow import impulse, squeeze_boundary
from .softmax import TokenStatistics, check_statistics

__all__ = [
    "EntropyChange",
    "EntropyParts",
    "entropy",
    "entropy_change",
    "entropy_change_parts",
    "entropy_parts",
    "entropy_vector",
    "kl_divergence",
    "kl_vector",
]


@short_repr
class EntropyParts(NamedTuple):
    """H = binary + weighted_rest with weighted_rest = (1 − π_y)·rest; nats."""

    binary: Float[Tensor, "*batch"]  # h(π_y), of whether the token is y
    weighted_rest: Float[Tensor, "*batch"]
    rest: Float[Tensor, "*batch"]  # H of the other tokens among themselves; 0 where 1 − π_y is 0


@short_repr
class EntropyChange(NamedTuple):
    """First-order change of each of `EntropyParts`; binary + weighted_rest is dH; nats."""

    binary: Float[Tensor, "*batch"]
    weighted_rest: Float[Tensor, "*batch"]
    rest: Float[Tensor, "*batch"]


@torch.no_grad()
def entropy(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """H = −Σ π log π in nats, relatively accurate in saturated rows: to (8 + g)·eps in float64 at a lead g of the top.

    Args:
        logits: z of π = softmax(z); −inf masks a token.

    Returns:
        The entropy of each row.

    Raises:
        UsageError: logits that are not finite.

    >>> entropy(torch.zeros(4)) / torch.tensor(2.0).log()
    tensor(2.)
    """
    _, r0, mean = _moments(check_logits(logits))
    return (torch.log1p(r0) - mean).squeeze(-1)


@torch.no_grad()
def entropy_vector(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """The gradient of the entropy in the logits, ∂H/∂z_v = −π_v(log π_v + H).

    Args:
        logits: z of π = softmax(z); −inf masks a token.

    Returns:
        Nats per unit of logit; rows sum to zero.

    Raises:
        UsageError: logits that are not finite.

    Source: derived here (†).

    >>> entropy_vector(torch.tensor([1.0, 0.0]))
    tensor([-0.1966,  0.1966])
    """
    s, r0, mean = _moments(check_logits(logits))
    return -s.exp() / (1 + r0) * (s - mean)


@torch.no_grad()
def kl_vector(
    logits: Float[Tensor, "*batch vocab"], ref_logits: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch vocab"]:
    """The gradient of the divergence in the logits, ∂KL(π‖ref)/∂z_v = π_v(log(π_v/ref_v) − KL(π‖ref)).

    Args:
        logits: z of π = softmax(z); −inf masks a token.
        ref_logits: those of the reference policy.

    Returns:
        Nats per unit of logit; rows sum to zero.

    Raises:
        UsageError: logits that are not finite, shapes that differ, a reference that masks a token that π does not (the
            divergence is infinite there).

    Source: derived here (†).

    >>> kl_vector(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    tensor([ 0.1966, -0.1966])
    """
    z, ref = _pair(logits, ref_logits, "ref_logits")
    top = z.argmax(-1, keepdim=True)
    log_ratio = _below(z, z.gather(-1, top)) - _below(ref, ref.gather(-1, top))  # up to a constant, 0 at the top token
    probs = torch.softmax(z, -1)
    return probs * (log_ratio - (probs * log_ratio).sum(-1, keepdim=True))


@torch.no_grad()
def kl_divergence(
    logits: Float[Tensor, "*batch vocab"], ref_logits: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(π‖ref) = Σ π log(π/ref) in nats, computed in float64.

    Summed as Σ [π·log(π/ref) − π + ref], whose terms are all ≥ 0, so that nearly equal distributions do not cancel
    across tokens.

    Args:
        logits: z of π = softmax(z); −inf masks a token.
        ref_logits: those of the reference policy.

    Returns:
        The divergence of each row.

    Raises:
        UsageError: logits that are not finite, shapes that differ, a reference that masks a token that π does not.

    >>> kl_divergence(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    tensor(0.1201)
    """
    z, ref = _pair(logits, ref_logits, "ref_logits")
    log_probs, log_ref = _log_probs(z.double()), _log_probs(ref.double())
    log_ratio = log_probs - log_ref
    probs = log_probs.exp()
    near = probs * (log_ratio + torch.expm1(-log_ratio.clamp(min=-1)))
    far = probs * (log_ratio - 1) + log_ref.exp()  # where π may underflow beside ref
    return torch.where(log_ratio > -1, near, far).sum(-1).to(z.dtype)


@torch.no_grad()
def entropy_change(stats: TokenStatistics, weight: PerToken, step: PerToken) -> Float[Tensor, "*batch"]:
    """First-order dH = −ηw·Cov_{v~π}(log π_v, 1{v=y} − π_v). A negative sample of a token with π_y < e^{−H} lowers H.

    Statistics made from logits carry the covariance from residual sums (relative accuracy in saturated rows too).
    Stored ones do not: then it is π_y log π_y − S + H(π_y − c), off by eps·(1 − π_y)·|log(1 − π_y)| where y is the
    saturated top token and by eps·log(vocab)/vocab near uniform, whereas the value is ~(1 − π_y)² and → 0.

    Args:
        stats: statistics at the sampled tokens.
        weight: w of each token, or one number.
        step: η in units of the logits.

    Returns:
        The change of entropy in nats.

    Raises:
        UsageError: a weight or step that is not finite or of another shape.

    Source: derived here (†).

    >>> from analysis.laws import token_prob_change, dense_statistics
    >>> stats = dense_statistics(torch.tensor([1.0, 0.0]), torch.tensor(0))  # of two tokens: dH = −(z_y − z_v)·dπ_y
    >>> entropy_change(stats, 1.0, 0.1), token_prob_change(stats, 1.0, 0.1)
    (tensor(-0.0106), tensor(0.0106))
    """
    check_statistics(stats)
    covariance = stats.covariance
    if covariance is None:
        covariance = stats.prob * stats.log_prob - stats.collision_log_prob - stats.entropy * squeeze_boundary(stats)
    return -impulse(stats, weight, step) * covariance


@torch.no_grad()
def entropy_parts(stats: TokenStatistics) -> EntropyParts:
    """H split into the entropy of "y or not" and that of the other tokens: H = h(π_y) + (1 − π_y)·H(rest).

    The second part is the difference H − h(π_y), right to eps·H.

    Args:
        stats: statistics at the sampled tokens.

    Returns:
        The parts in nats, each of the shape of the tokens.

    Source: the chain rule of entropy.

    >>> from analysis.laws import dense_statistics
    >>> entropy_parts(dense_statistics(torch.zeros(3), torch.tensor(0))).rest
    tensor(0.6931)
    """
    check_statistics(stats)
    not_y = stats.one_minus_prob
    # log(1 − π_y) from the smaller of π_y and 1 − π_y, which is the accurate one
    log_not_y = torch.where(not_y < 0.5, not_y.log(), torch.log1p(-stats.prob))
    binary = -stats.prob * stats.log_prob - torch.where(not_y > 0, not_y * log_not_y, 0.0)
    weighted_rest = (stats.entropy - binary).clamp(min=0)
    return EntropyParts(binary, weighted_rest, torch.where(not_y > 0, weighted_rest / not_y, 0.0))


@torch.no_grad()
def entropy_change_parts(stats: TokenStatistics, weight: PerToken, step: PerToken) -> EntropyChange:
    """First-order changes of h(π_y), of (1 − π_y)·H(rest) and of H(rest), the entropy of the other tokens.

    dh = log((1 − π_y)/π_y)·dπ_y with dπ_y = ηw·π_y·‖e_y − π‖²; the second is dH − dh; and
    dH(rest) = ηw(1 − π_y)(S_rest + c_rest·H_rest) ≤ 0 under NSR: negative samples always sharpen the alternatives.
    Accuracy as in `entropy_change`, that of dH(rest) divided by 1 − π_y.

    Args:
        stats: statistics at the sampled tokens.
        weight: w of each token, or one number.
        step: η in units of the logits.

    Returns:
        The changes in nats, each of the shape of the tokens.

    Raises:
        UsageError: a weight or step that is not finite or of another shape.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> stats = dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1))
    >>> entropy_change_parts(stats, -1.0, 1.0)
    EntropyChange(binary=tensor(-0.2403), weighted_rest=tensor(0.1104), rest=tensor(-0.0385))
    """
    dh_total = entropy_change(stats, weight, step)
    dp = stats.prob * impulse(stats, weight, step) * stats.direction_norm.square()
    not_y = stats.one_minus_prob
    binary = torch.where(not_y > 0, (not_y.log() - stats.log_prob) * dp, 0.0)
    weighted_rest = dh_total - binary
    rest = (weighted_rest + dp * entropy_parts(stats).rest) / not_y
    return EntropyChange(binary, weighted_rest, torch.where(not_y > 0, rest, 0.0))


def _moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s = z − max z, R0 = Σ e^s without the top token, and E_π s, the last two with the vocabulary axis kept."""
    top, a = z.max(-1, keepdim=True)
    s = _below(z, top)
    rest = s.exp().scatter_(-1, a, 0)
    r0 = rest.sum(-1, keepdim=True)
    return s, r0, (rest * s).sum(-1, keepdim=True) / (1 + r0)


def _below(z: Tensor, top: Tensor) -> Tensor:
    """z − top, as far as it goes; the lowest finite number instead of −inf, so that 0·log 0 is 0."""
    return (z - top).clamp_(min=torch.finfo(z.dtype).min / 2)


def _log_probs(z: Tensor) -> Tensor:
    s, r0, _ = _moments(z)
    return s - torch.log1p(r0)


def _pair(logits: Tensor, ref_logits: Tensor, name: str) -> tuple[Tensor, Tensor]:
    check_tensor("logits", logits)
    check_tensor(name, ref_logits)
    if ref_logits.shape != logits.shape:
        raise UsageError(f"{name}: expected the shape of logits, {tuple(logits.shape)}, got {tuple(ref_logits.shape)}")
    z, ref = check_logits(logits), check_logits(ref_logits, name)
    dtype = torch.promote_types(z.dtype, ref.dtype)
    infinite = (ref == float("-inf")) & (z > float("-inf"))
    if infinite.any():
        at = at_index(first_index(infinite))
        raise UsageError(
            f"{name}: a token that the policy can sample is masked (−inf){at}, so the KL divergence is infinite; mask "
            "it in both"
        )
    return z.to(dtype), ref.to(dtype)
