"""Softmax bandits: one table of logits, one arm a response, everything exact.

    π = softmax(z),    score of arm a:  s_a = ∇_z log π_a = e_a − π

All leading axes of the logits are batch axes: seeds, and prompts, which makes it a contextual bandit. Weights say what
an objective does to each arm (w > 0 pushes it up), so nothing here needs to know an objective: the expected gradient
and the covariance of a sampled one are those of w_a·s_a with a drawn from π.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Bandit", "check_logits", "draw", "expected_logit_score", "logit_score_covariance", "sampled_logit_score"]


def expected_logit_score(probs: Tensor, weights: Tensor, behaviour: Tensor | None = None) -> Tensor:
    """E[w_a (e_a − π)] = μ∘w − π·(μ·w) over the last axis; `weights` spread over the shape of `probs`.

    Arms are drawn from μ = `behaviour`, π itself where it is left out.

    >>> expected_logit_score(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 0.0, 0.0]))
    tensor([ 0.2500, -0.1250, -0.1250])
    """
    pushed = (probs if behaviour is None else behaviour) * weights
    return pushed - probs * pushed.sum(-1, keepdim=True)


def logit_score_covariance(probs: Tensor, weights: Tensor) -> Tensor:
    """Cov[w_a (e_a − π)] over one draw of a: (…, A) -> (…, A, A)."""
    squared = probs * weights.square()
    total = squared.sum(-1)[..., None, None]
    cross = squared[..., :, None] * probs[..., None, :]
    second = torch.diag_embed(squared) - cross - cross.mT + total * probs[..., :, None] * probs[..., None, :]
    mean = expected_logit_score(probs, weights)
    return second - mean[..., :, None] * mean[..., None, :]


def sampled_logit_score(probs: Tensor, arms: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i (e_{a_i} − π) over the last axis of `arms` and `weights` (…, G): (…, A)."""
    pushed = torch.zeros_like(probs).scatter_add_(-1, arms, weights.to(probs.dtype))
    return pushed - probs * weights.sum(-1, keepdim=True)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The arm whose share of [0, 1) each uniform falls into: (…, A) and (…, G) -> (…, G) int64.

    An arm of probability zero is never drawn.
    """
    cdf = probs.cumsum(-1)
    # u·total < total in exact arithmetic; rounding can make them equal, which the last arm with mass then takes
    arms = torch.searchsorted(cdf, uniforms.to(cdf.dtype) * cdf[..., -1:], right=True)
    last = (probs > 0).to(torch.int64).cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(arms, last)


def check_logits(name: str, logits: Tensor) -> None:
    """Raises ValueError, naming the argument and the first bad index, for logits that are no policy."""
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected floating-point logits (…, arms) with at least one arm, received {logits.dtype} of shape "
            f"{tuple(logits.shape)}"
        )
    if bool(torch.isfinite(logits.sum())):  # one pass; a sum that overflows is looked at closely
        return
    bad = ~torch.isfinite(logits)
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: expected finite logits, received {float(logits[index])} at index {index}; leave an arm "
            "out rather than give it −inf"
        )


@dataclass(frozen=True)
class Bandit:
    """π = softmax(logits) over the last axis; logits (…, A). A prompt axis before it makes a contextual bandit.

    Raises ValueError for logits that are not finite or have no arm.

    >>> Bandit(torch.zeros(4)).success(torch.tensor([True, False, False, False]))
    tensor(0.2500)
    """

    logits: Tensor

    def __post_init__(self) -> None:
        check_logits("logits", self.logits)

    @classmethod
    def from_probs(cls, probs: Tensor) -> Bandit:
        """The bandit with these probabilities. Raises ValueError where they are not positive or do not sum to one."""
        sums = probs.sum(-1)
        if bool((probs <= 0).any()) or bool(((sums - 1).abs() > 1e-6).any()):
            worst = float(sums.flatten()[(sums - 1).abs().argmax()])
            raise ValueError(
                f"probs: expected positive numbers that sum to one over the last axis, received a least one of "
                f"{float(probs.min()):.3g} and a sum of {worst:.6g}; divide by probs.sum(-1, keepdim=True)"
            )
        return cls(probs.log())

    @property
    def parameters(self) -> Tensor:
        """θ: the logits themselves."""
        return self.logits

    def with_parameters(self, parameters: Tensor) -> Bandit:
        """The same policy at other parameters of the same shape."""
        return replace(self, logits=parameters)

    def log_probs(self) -> Tensor:
        """log π of each arm, (…, A) in nats."""
        return self.logits.log_softmax(-1)

    def success(self, correct: Tensor) -> Tensor:
        """p = Σ π over the arms where `correct` (bool, spread over (…, A)) is true: (…)."""
        return (self.logits.softmax(-1) * correct).sum(-1)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Arms (…, G) by inverting the cumulative distribution at `uniforms` (…, G) in [0, 1)."""
        return draw(self.logits.softmax(-1), uniforms)

    def sampled_score(self, arms: Tensor, weights: Tensor) -> Tensor:
        """Σ_i w_i ∇ log π(a_i) of sampled arms (…, G), with respect to the parameters: (…, A)."""
        return sampled_logit_score(self.logits.softmax(-1), arms, weights)

    def expected_score(self, weights: Tensor, *, behaviour: Bandit | None = None) -> Tensor:
        """Exact E[w_a ∇ log π_a] with respect to the parameters, (…, A); arms drawn from `behaviour`, else from π."""
        drawn = None if behaviour is None else behaviour.logits.softmax(-1)
        return expected_logit_score(self.logits.softmax(-1), weights, drawn)

    def score_covariance(self, weights: Tensor) -> Tensor:
        """Exact covariance of w_a ∇ log π_a for one sampled arm, (…, A, A); that of a mean of n draws is 1/n of it."""
        return logit_score_covariance(self.logits.softmax(-1), weights)
