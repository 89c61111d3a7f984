"""One softmax over the arms of each prompt: its calculus, and what the toys made of it share.

    π = softmax(z),    score of arm a:  s_a = ∇_z log π_a = e_a − π

All leading axes of the logits are batch axes. Weights say what an objective does to each arm (w > 0 pushes it up), so
nothing here needs to know an objective: the expected gradient and the covariance of a sampled one are those of w_a·s_a
with a drawn from π.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from .success import pass_at_k
from .tensor_checks import check_correct, check_uniforms, check_weights

__all__ = ["ArmPolicy", "draw", "expected_logit_score", "logit_score_covariance", "net_weight", "sampled_logit_score"]


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
    w = weights.to(probs.dtype)
    pushed = torch.zeros_like(probs).scatter_add_(-1, arms, w)
    return pushed - probs * net_weight(w.sum(-1, keepdim=True), w.abs().sum(-1, keepdim=True), w.shape[-1])


def net_weight(total: Tensor, sizes: Tensor, terms: int) -> Tensor:
    """`total` of at most `terms` weights whose sizes |w| add up to `sizes`: 0 where it is not more than their rounding.

    Weights of a group that cancel (GRPO) would leave a few last bits to every arm that was not drawn, and an optimiser
    that divides a gradient by its own size (Adam, Lion) would make whole steps of them.

    >>> w = torch.tensor([0.7, -0.1, -0.6])
    >>> bool(w.sum()), net_weight(w.sum(), w.abs().sum(), 3)
    (True, tensor(0.))
    """
    return total.masked_fill(total.abs() <= 2 * terms * torch.finfo(total.dtype).eps * sizes, 0.0)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The arm whose share of [0, 1) each uniform falls into: (…, A) and (…, G) -> (…, G) int64.

    An arm of probability zero is never drawn.
    """
    cdf = probs.cumsum(-1)
    # u·total < total in exact arithmetic; rounding can make them equal, which the last arm with mass then takes
    arms = torch.searchsorted(cdf, uniforms.to(cdf.dtype) * cdf[..., -1:], right=True)
    if arms.numel() == 0 or int(arms.max()) < probs.shape[-1]:
        return arms
    last = (probs > 0).to(torch.int64).cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(arms, last)


class ArmPolicy(ABC):
    """A policy that draws one arm for each prompt; a subclass has parameters θ and says how its log π depends on them.

    `sampled_score` and `expected_score` are gradients with respect to θ. Raises ValueError for masks and weights that
    do not spread over the arms, weights that are not finite and uniforms outside [0, 1).
    """

    @property
    @abstractmethod
    def parameters(self) -> Tensor:
        """θ, batch axes first."""

    @abstractmethod
    def with_parameters(self, parameters: Tensor) -> Self:
        """The same policy at other parameters of the same shape."""

    @abstractmethod
    def log_probs(self) -> Tensor:
        """log π of each arm, (…, A) in nats."""

    @abstractmethod
    def pull_back(self, direction: Tensor) -> Tensor:
        """The gradient with respect to θ that a gradient with respect to the logits (…, A) makes."""

    def probs(self) -> Tensor:
        """π of each arm, (…, A)."""
        return self.log_probs().exp()

    def success(self, correct: Tensor) -> Tensor:
        """p = Σ π over the arms where `correct` (bool, spread over (…, A)) is true: (…)."""
        probs = self.probs()
        check_correct(correct, probs.shape)
        return (probs * correct).sum(-1)

    def pass_at_k(self, correct: Tensor, k: int) -> Tensor:
        """Pass@k of each prompt, (…): exact, over all that k responses can be."""
        return pass_at_k(self.success(correct), k)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Arms (…, G) by inverting the cumulative distribution at `uniforms` (…, G) in [0, 1)."""
        probs = self.probs()
        check_uniforms(uniforms, probs.shape[:-1])
        return draw(probs, uniforms)

    def sampled_score(self, arms: Tensor, weights: Tensor) -> Tensor:
        """Σ_i w_i ∇_θ log π(a_i) of sampled arms (…, G)."""
        return self.pull_back(sampled_logit_score(self.probs(), arms, weights))

    def expected_score(self, weights: Tensor, *, behaviour: Self | None = None) -> Tensor:
        """Exact E[w_a ∇_θ log π_a], weights spread over (…, A); arms drawn from `behaviour`, else from π."""
        drawn = None if behaviour is None else behaviour.probs()
        probs = self.probs()
        return self.pull_back(expected_logit_score(probs, check_weights(weights, probs.shape), drawn))
