"""Where the probability goes when one token is pushed: first order and exact, in full and from statistics alone.

The logit step is Δz = ηw·(e_y − π). With c = Σπ², to first order (derived here; Zhu et al., arXiv 2506.01347, state the
step of the logits, Eqs. 7 and 8)

    Δπ_y = ηw·π_y(1 − 2π_y + c),    Δπ_v = −ηw·π_v(π_v + π_y − c) for v ≠ y,

so an unsampled token moves against the sampled one only if π_v > c − π_y, the squeeze boundary. For any step
π'_v = π_v·e^{Δz_v} / E_π[e^{Δz}], and π_v rises iff Δz_v > log E_π[e^{Δz}].

`step` is η in units of the logits of the law. At temperature T pass logits / T and divide the step by T², once for the
gradient and once because the step moves z where the law has z/T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from .checks import check_logits, per_token
from .gradient import logit_gradient
from .softmax import TokenStatistics

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
    logits: Tensor, tokens: Tensor, weight: float | Tensor, step: float | Tensor, *, exact: bool = False
) -> Tensor:
    """Δπ (…, vocab) under Δz = step·weight·(e_y − π): to first order, or the finite change π' − π.

    logits (…, vocab), tokens (…), weight and step one number or (…). Sums to zero. Every entry keeps its relative
    accuracy in saturated rows (differences are taken from the most probable token, whose own step drops out).
    Raises UsageError for non-finite input, ids outside the vocabulary and shapes that do not fit.

    >>> mass_flow(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1), -1.0, 1.0)
    tensor([ 0.1875, -0.2188,  0.0312])
    >>> mass_flow(torch.zeros(2), torch.tensor(0), 1.0, torch.tensor(3.0).log(), exact=True)  # 1/2 -> 3/4
    tensor([ 0.2500, -0.2500])
    """
    direction = logit_gradient(logits, tokens, weight)
    return logit_step_flow(logits, direction * per_token("step", step, direction[..., 0]).unsqueeze(-1), exact=exact)


@torch.no_grad()
def logit_step_flow(logits: Tensor, delta_logits: Tensor, *, exact: bool = False) -> Tensor:
    """Δπ (…, vocab) under any logit step: π_v(Δz_v − E_π Δz), or exactly softmax(z + Δz) − softmax(z).

    The exact form is π_v·expm1(Δz_v − log E_π e^{Δz}), in float64: no difference of two distributions is taken.

    >>> logit_step_flow(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor([ 0.2500, -0.2500])
    """
    z = check_logits(logits)
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
def rises(logits: Tensor, delta_logits: Tensor) -> Tensor:
    """Which probabilities rise under a logit step of any size: Δz_v > log E_π[e^{Δz}]; bool (…, vocab).

    >>> rises(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.1]))
    tensor([False,  True, False])
    """
    z = check_logits(logits)
    return (_log_prob_step(z, delta_logits)[1] > 0) & (z > float("-inf"))


@torch.no_grad()
def token_prob_change(stats: TokenStatistics, weight: float | Tensor, step: float | Tensor) -> Tensor:
    """First-order Δπ_y = ηw·π_y·‖e_y − π‖² = ηw·π_y(1 − 2π_y + c), shape (…).

    >>> from analysis.laws import dense_statistics
    >>> token_prob_change(dense_statistics(torch.zeros(2), torch.tensor(0)), 1.0, 0.1)
    tensor(0.0250)
    """
    return stats.prob * log_prob_change(stats, weight, step)


@torch.no_grad()
def log_prob_change(stats: TokenStatistics, weight: float | Tensor, step: float | Tensor) -> Tensor:
    """First-order Δ log π_y = ηw·‖e_y − π‖² in nats, shape (…).

    >>> from analysis.laws import dense_statistics
    >>> log_prob_change(dense_statistics(torch.zeros(2), torch.tensor(0)), 1.0, 0.1)
    tensor(0.0500)
    """
    return impulse(stats, weight, step) * stats.direction_norm.square()


@torch.no_grad()
def other_prob_change(probs: Tensor, stats: TokenStatistics, weight: float | Tensor, step: float | Tensor) -> Tensor:
    """First-order Δπ_v = −ηw·π_v(π_v + π_y − c) of unsampled tokens with probabilities `probs` (…, tokens).

    Where π_v itself is close to 1, π_v + π_y − c cancels and keeps an absolute accuracy of eps; `mass_flow` does not.

    >>> from analysis.laws import dense_statistics
    >>> stats = dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1))
    >>> other_prob_change(torch.tensor([0.5, 0.25]), stats, -1.0, 1.0)
    tensor([0.1875, 0.0312])
    """
    if probs.shape[:-1] != stats.log_prob.shape:
        raise UsageError(
            f"probs: expected shape {tuple(stats.log_prob.shape)} and an axis of tokens, got {tuple(probs.shape)}"
        )
    nw = impulse(stats, weight, step).expand(stats.log_prob.shape).unsqueeze(-1)
    return -nw * probs * (probs - squeeze_boundary(stats).unsqueeze(-1))


@torch.no_grad()
def squeeze_boundary(stats: TokenStatistics) -> Tensor:
    """c − π_y (…): unsampled tokens with π_v above it move against the sampled token, those below with it.

    Where π_y > ½ it is ‖e_y − π‖² − (1 − π_y), which does not cancel in saturated rows.

    >>> from analysis.laws import dense_statistics
    >>> squeeze_boundary(dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1)))
    tensor(0.1250)
    """
    saturated = stats.direction_norm.square() - stats.one_minus_prob
    return torch.where(stats.one_minus_prob < 0.5, saturated, stats.collision - stats.prob)


@torch.no_grad()
def bucket_flow(
    bucket_mass: Tensor,
    bucket_mass_sq: Tensor,
    stats: TokenStatistics,
    weight: float | Tensor,
    step: float | Tensor,
    *,
    token_bucket: Tensor | None = None,
) -> Tensor:
    """First-order change of the mass of sets of tokens, −ηw(Σπ² + (π_y − c)Σπ), (…, buckets) like `bucket_mass`.

    Without `token_bucket` this holds for the sets that y is not in. With it, (…) the bucket of y of a partition of the
    vocabulary, that bucket gains ηw·π_y besides, and the fullest one takes what the others leave, so the row sums to
    zero and saturated rows do not cancel.

    >>> from analysis.laws import dense_statistics
    >>> stats = dense_statistics(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor(1))
    >>> mass, mass_sq = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.125])
    >>> bucket_flow(mass, mass_sq, stats, -1.0, 1.0, token_bucket=torch.tensor(1))
    tensor([ 0.1875, -0.1875])
    """
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
    own = token_bucket.unsqueeze(-1).long()
    flow = flow.scatter_add(-1, own, nw * stats.prob.unsqueeze(-1))
    fullest = bucket_mass.argmax(-1, keepdim=True)
    others = flow.scatter(-1, fullest, 0)
    return others.scatter(-1, fullest, -others.sum(-1, keepdim=True))


def impulse(stats: TokenStatistics, weight: float | Tensor, step: float | Tensor) -> Tensor:
    """η·w, checked against the shape of the statistics."""
    return per_token("weight", weight, stats.log_prob) * per_token("step", step, stats.log_prob)


def _relative_to_top(z: Tensor, delta: Tensor) -> Tensor:
    """Δz less its value at the most probable token, which then contributes exactly nothing to expectations."""
    if delta.shape != z.shape:
        raise UsageError(f"delta_logits: expected the shape of logits, {tuple(z.shape)}, got {tuple(delta.shape)}")
    if not torch.isfinite(delta.sum(-1)).all():
        raise UsageError("delta_logits: expected finite numbers, got NaN or infinity")
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
