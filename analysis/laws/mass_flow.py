"""Where the probability goes when one token is pushed: first order and exact, in full and from statistics alone.

The logit step is Δz = ηw·(e_y − π). With c = Σπ², to first order (derived here; Zhu et al., arXiv 2506.01347, state the
step of the logits, Eqs. 7 and 8)

    Δπ_y = ηw·π_y(1 − 2π_y + c),    Δπ_v = −ηw·π_v(π_v + π_y − c) for v ≠ y,

so an unsampled token moves against the sampled one only if π_v > c − π_y, the squeeze boundary. For any step
π'_v = π_v·e^{Δz_v} / E_π[e^{Δz}], and π_v rises iff Δz_v > log E_π[e^{Δz}].

`step` is η in units of the logits of π. At temperature T pass logits / T and divide the step by T², once for the
gradient and once because the step moves z where the distribution has z/T.

These are changes under the token's own push. In a network a parameter update moves the logits of a context by the
pushes of the whole batch as well, and often by more than by its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.arguments import check_float
from ..errors import UsageError, at_index, first_index
from .checks import PerToken, check_ids, check_logits, per_token
from .gradient import logit_gradient
from .softmax import TokenStatistics, check_statistics

__all__ = [
    "bucket_flow",
    "log_prob_change",
    "logit_step_flow",
    "mass_flow",
    "other_prob_change",
    "rises",
    "squeeze_boundary",
    "token_prob_change",
]

# Below it p·e^x cannot overflow in float64 (e^709), above it log E e^Δz is too large for its cancellation to matter.
_LARGE_STEP = 500.0


def mass_flow(
    logits: Float[Tensor, "*batch vocab"],
    tokens: Int[Tensor, "*batch"],
    weight: PerToken,
    step: PerToken,
    *,
    exact: bool = False,
) -> Float[Tensor, "*batch vocab"]:
    """Δπ of every token under Δz = step·weight·(e_y − π): to first order, or the finite change π' − π.

    Every entry keeps its relative accuracy in saturated rows: differences are taken from the most probable token, whose
    own step drops out.

    Args:
        logits: z; −inf masks a token.
        tokens: sampled ids y.
        weight: w = −∂L/∂log π_y, one number or one for each token.
        step: η in units of the logits, one number or one for each token.
        exact: the finite change, not its first order.

    Returns:
        Changes of probability, whose rows sum to zero.

    Raises:
        UsageError: input that is not finite, ids outside the vocabulary, shapes that do not fit.

    Source: derived here (†) from Eqs. 7 and 8 of arXiv 2506.01347.

    >>> mass_flow(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1), -1.0, 1.0)
    tensor([ 0.1875, -0.2188,  0.0312])
    >>> mass_flow(torch.zeros(2), torch.tensor(0), 1.0, torch.tensor(3.0).log(), exact=True)  # 1/2 -> 3/4
    tensor([ 0.2500, -0.2500])
    """
    direction = logit_gradient(logits, tokens, weight)
    return logit_step_flow(logits, direction * per_token("step", step, direction[..., 0]).unsqueeze(-1), exact=exact)


@torch.no_grad()
def logit_step_flow(
    logits: Float[Tensor, "*batch vocab"], delta_logits: Float[Tensor, "*batch vocab"], *, exact: bool = False
) -> Float[Tensor, "*batch vocab"]:
    """Δπ under any logit step: π_v(Δz_v − E_π Δz) to first order, or exactly softmax(z + Δz) − softmax(z).

    The exact form is π_v·expm1(Δz_v − log E_π e^{Δz}), in float64: no difference of two distributions is taken.

    Args:
        logits: z before the step; −inf masks a token.
        delta_logits: Δz.
        exact: the finite change, not its first order.

    Returns:
        Changes of probability, whose rows sum to zero.

    Raises:
        UsageError: input that is not finite, shapes that differ.

    Source: derived here (†).

    >>> logit_step_flow(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor([ 0.2500, -0.2500])
    """
    z = check_logits(logits)
    check_float("delta_logits", delta_logits)
    if exact:
        log_probs, x = _log_prob_step(z, delta_logits)
        probs = log_probs.exp()
        # A step that lifts a token by more than one nat is a difference without cancellation, and p·e^x may overflow.
        change = torch.where(x > 1, torch.exp(log_probs + x) - probs, probs * torch.expm1(x.clamp(max=1)))
        return change.to(z.dtype)
    probs = torch.softmax(z, -1)
    rel = _relative_to_top(z, delta_logits)
    return probs * (rel - (probs * rel).sum(-1, keepdim=True))


@torch.no_grad()
def rises(
    logits: Float[Tensor, "*batch vocab"], delta_logits: Float[Tensor, "*batch vocab"]
) -> Bool[Tensor, "*batch vocab"]:
    """Which probabilities rise under a logit step of any size: those with Δz_v > log E_π[e^{Δz}].

    Args:
        logits: z before the step; −inf masks a token, which never rises.
        delta_logits: Δz.

    Returns:
        True where π'_v > π_v.

    Raises:
        UsageError: input that is not finite, shapes that differ.

    Source: derived here (†).

    >>> rises(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.1]))
    tensor([False,  True, False])
    """
    z = check_logits(logits)
    check_float("delta_logits", delta_logits)
    return (_log_prob_step(z, delta_logits)[1] > 0) & (z > float("-inf"))


@torch.no_grad()
def token_prob_change(stats: TokenStatistics, weight: PerToken, step: PerToken) -> Float[Tensor, "*batch"]:
    """First-order Δπ_y = ηw·π_y·‖e_y − π‖² = ηw·π_y(1 − 2π_y + c) of the sampled token.

    Args:
        stats: statistics at the sampled tokens.
        weight: w of each token, or one number.
        step: η in units of the logits.

    Returns:
        The change of probability of each sampled token; it has the sign of w.

    Raises:
        UsageError: a weight or step that is not finite or of another shape.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> token_prob_change(dense_statistics(torch.zeros(2), torch.tensor(0)), 1.0, 0.1)
    tensor(0.0250)
    """
    check_statistics(stats)
    return stats.prob * log_prob_change(stats, weight, step)


@torch.no_grad()
def log_prob_change(stats: TokenStatistics, weight: PerToken, step: PerToken) -> Float[Tensor, "*batch"]:
    """First-order Δ log π_y = ηw·‖e_y − π‖² of the sampled token.

    Args:
        stats: statistics at the sampled tokens.
        weight: w of each token, or one number.
        step: η in units of the logits.

    Returns:
        The change of log-probability in nats.

    Raises:
        UsageError: a weight or step that is not finite or of another shape.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> log_prob_change(dense_statistics(torch.zeros(2), torch.tensor(0)), 1.0, 0.1)
    tensor(0.0500)
    """
    return impulse(stats, weight, step) * stats.direction_norm.square()


@torch.no_grad()
def other_prob_change(
    probs: Float[Tensor, "*batch others"], stats: TokenStatistics, weight: PerToken, step: PerToken
) -> Float[Tensor, "*batch others"]:
    """First-order Δπ_v = −ηw·π_v(π_v + π_y − c) of unsampled tokens v.

    Where π_v itself is close to 1, π_v + π_y − c cancels and keeps an absolute accuracy of eps; `mass_flow` does not.

    Args:
        probs: π_v of the unsampled tokens of interest.
        stats: statistics at the sampled tokens.
        weight: w of each sampled token, or one number.
        step: η in units of the logits.

    Returns:
        The change of probability of each of those tokens.

    Raises:
        UsageError: probabilities without one row for each token, a weight or step that does not fit.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> stats = dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1))
    >>> other_prob_change(torch.tensor([0.5, 0.25]), stats, -1.0, 1.0)
    tensor([0.1875, 0.0312])
    """
    check_float("probs", probs)
    check_statistics(stats)
    if probs.ndim < 1 or probs.shape[:-1] != stats.log_prob.shape:
        raise UsageError(
            f"probs: expected shape {tuple(stats.log_prob.shape)} and an axis of tokens, got {tuple(probs.shape)}"
        )
    nw = impulse(stats, weight, step).expand(stats.log_prob.shape).unsqueeze(-1)
    return -nw * probs * (probs - squeeze_boundary(stats).unsqueeze(-1))


@torch.no_grad()
def squeeze_boundary(stats: TokenStatistics) -> Float[Tensor, "*batch"]:
    """c − π_y: an unsampled token with π_v above it moves against the sampled token, one below it moves with it.

    Where it is negative (π_y > c), every unsampled token moves against the sampled one.
    Where π_y > ½ it is computed as ‖e_y − π‖² − (1 − π_y), which does not cancel in saturated rows.

    Args:
        stats: statistics at the sampled tokens.

    Returns:
        The boundary of each token, a probability that may be negative.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> squeeze_boundary(dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1)))
    tensor(0.1250)
    """
    check_statistics(stats)
    saturated = stats.direction_norm.square() - stats.one_minus_prob
    return torch.where(stats.one_minus_prob < 0.5, saturated, stats.collision - stats.prob)


@torch.no_grad()
def bucket_flow(
    bucket_mass: Float[Tensor, "*batch buckets"],
    bucket_mass_sq: Float[Tensor, "*batch buckets"],
    stats: TokenStatistics,
    weight: PerToken,
    step: PerToken,
    *,
    token_bucket: Int[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch buckets"]:
    """First-order change of the mass of sets of tokens, −ηw(Σπ² + (π_y − c)Σπ).

    Without `token_bucket` this holds for the sets that y is not in. With it, the bucket of y of a partition of the
    vocabulary, that bucket gains ηw·π_y besides, and the fullest one takes what the others leave, so the row sums to
    zero and saturated rows do not cancel.

    Args:
        bucket_mass: Σπ over each set.
        bucket_mass_sq: Σπ² over each set.
        stats: statistics at the sampled tokens.
        weight: w of each token, or one number.
        step: η in units of the logits.
        token_bucket: index of the bucket that holds y, where the buckets are a partition of the vocabulary.

    Returns:
        The change of each set's mass.

    Raises:
        UsageError: masses whose shapes do not fit, a weight or step that does not fit.

    Source: derived here (†).

    >>> from analysis.laws import dense_statistics
    >>> stats = dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1))
    >>> mass, mass_sq = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.125])
    >>> bucket_flow(mass, mass_sq, stats, -1.0, 1.0, token_bucket=torch.tensor(1))
    tensor([ 0.1875, -0.1875])
    """
    check_statistics(stats)
    check_float("bucket_mass", bucket_mass)
    check_float("bucket_mass_sq", bucket_mass_sq)
    leading = stats.log_prob.shape
    if bucket_mass.shape != bucket_mass_sq.shape or bucket_mass.shape[:-1] != leading:
        raise UsageError(
            f"bucket_mass, bucket_mass_sq: expected both of shape {tuple(leading)} and an axis of buckets, got "
            f"{tuple(bucket_mass.shape)} and {tuple(bucket_mass_sq.shape)}"
        )
    nw = impulse(stats, weight, step).expand(leading).unsqueeze(-1)
    flow = -nw * (bucket_mass_sq - squeeze_boundary(stats).unsqueeze(-1) * bucket_mass)
    if token_bucket is None:
        return flow
    check_ids("token_bucket", token_bucket, tuple(leading), bucket_mass.shape[-1], "buckets")
    own = token_bucket.unsqueeze(-1).long()
    flow = flow.scatter_add(-1, own, nw * stats.prob.unsqueeze(-1))
    fullest = bucket_mass.argmax(-1, keepdim=True)
    others = flow.scatter(-1, fullest, 0)
    return others.scatter(-1, fullest, -others.sum(-1, keepdim=True))


def impulse(stats: TokenStatistics, weight: PerToken, step: PerToken) -> Tensor:
    """η·w, checked against the shape of the statistics: one number or one for each token."""
    check_statistics(stats)
    return per_token("weight", weight, stats.log_prob) * per_token("step", step, stats.log_prob)


def _relative_to_top(z: Tensor, delta: Tensor) -> Tensor:
    """Δz less its value at the most probable token, which then contributes exactly nothing to expectations."""
    if delta.shape != z.shape:
        raise UsageError(f"delta_logits: expected the shape of logits, {tuple(z.shape)}, got {tuple(delta.shape)}")
    if not torch.isfinite(delta.sum(-1)).all() and (bad := ~torch.isfinite(delta)).any():
        index = first_index(bad)
        raise UsageError(f"delta_logits: expected finite numbers, got {float(delta[index])}{at_index(index)}")
    return (delta - delta.gather(-1, z.argmax(-1, keepdim=True))).to(z.dtype)


def _log_prob_step(z: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """log π and Δ log π = Δz − log E_π e^{Δz}, in float64."""
    z = z.double()
    rel = _relative_to_top(z, delta.double())
    log_probs = torch.log_softmax(z, -1)
    mean = (log_probs.exp() * torch.expm1(rel.clamp(max=_LARGE_STEP))).sum(-1, keepdim=True)
    log_mean = torch.where(
        rel.amax(-1, keepdim=True) < _LARGE_STEP, torch.log1p(mean), torch.logsumexp(log_probs + rel, -1, keepdim=True)
    )
    return log_probs, rel - log_mean
