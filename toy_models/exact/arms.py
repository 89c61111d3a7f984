"""One softmax over the arms of each prompt: its calculus, and what policies that draw one arm have in common.

    π = softmax(z),    score of arm a:  s_a = ∇_z log π_a = e_a − π

All leading axes of the logits are batch axes. Weights say what an objective does to each arm (w > 0 raises its
probability), so that nothing here needs to know an objective: the expected gradient and the covariance of a sampled one
are those of w_a·s_a with a drawn from π.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from .success import ExactPolicy
from .tensor_checks import check_uniforms, check_weights

__all__ = ["ArmPolicy", "draw", "expected_logit_score", "logit_score_covariance", "net_weight", "sampled_logit_score"]


def expected_logit_score(probs: Tensor, weights: Tensor, behaviour: Tensor | None = None) -> Tensor:
    """The expected gradient of the logits, E[w_a (e_a − π)] = μ∘w − π·(μ·w).

    Args:
        probs: π, (…, A).
        weights: w, broadcast to (…, A).
        behaviour: μ, the distribution that arms are drawn from, (…, A); π where it is left out.

    Returns:
        The expected gradient, (…, A); it sums to zero over the arms.

    >>> expected_logit_score(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 0.0, 0.0]))
    tensor([ 0.2500, -0.1250, -0.1250])
    """
    pushed = (probs if behaviour is None else behaviour) * weights
    return pushed - probs * pushed.sum(-1, keepdim=True)


def logit_score_covariance(probs: Tensor, weights: Tensor) -> Tensor:
    """Cov[w_a (e_a − π)] over one draw of the arm a.

    Args:
        probs: π, (…, A).
        weights: w, broadcast to (…, A).

    Returns:
        The covariance, (…, A, A).
    """
    squared = probs * weights.square()
    total = squared.sum(-1)[..., None, None]
    cross = squared[..., :, None] * probs[..., None, :]
    second = torch.diag_embed(squared) - cross - cross.mT + total * probs[..., :, None] * probs[..., None, :]
    mean = expected_logit_score(probs, weights)
    return second - mean[..., :, None] * mean[..., None, :]


def sampled_logit_score(probs: Tensor, arms: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the logits from sampled arms, Σ_i w_i (e_{a_i} − π).

    Args:
        probs: π, (…, A).
        arms: The arms a_i, (…, G) int64.
        weights: w_i, (…, G).

    Returns:
        The gradient, (…, A). Weights that cancel up to rounding leave the arms that were not drawn exactly at zero
        (`net_weight`).
    """
    w = weights.to(probs.dtype)
    pushed = torch.zeros_like(probs).scatter_add_(-1, arms, w)
    return pushed - probs * net_weight(w.sum(-1, keepdim=True), w.abs().sum(-1, keepdim=True), w.shape[-1])


def net_weight(total: Tensor, sizes: Tensor, terms: int) -> Tensor:
    """A sum of weights, set to zero where it is no larger than its own rounding error.

    Weights of a group that cancel (GRPO) would otherwise leave a few last bits to every arm that was not drawn, and an
    optimiser that divides a gradient by its own size (Adam, Lion) would turn these into whole steps.

    Args:
        total: Sum of at most `terms` weights w.
        sizes: Sum of their sizes |w|, of the same shape.
        terms: Number of weights in a sum.

    Returns:
        `total`, or 0 where |total| ≤ 2·terms·eps·sizes.

    >>> w = torch.tensor([0.7, -0.1, -0.6])
    >>> bool(w.sum()), net_weight(w.sum(), w.abs().sum(), 3)
    (True, tensor(0.))
    """
    return total.masked_fill(total.abs() <= 2 * terms * torch.finfo(total.dtype).eps * sizes, 0.0)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw arms by inverting the cumulative distribution. An arm of probability zero is never drawn.

    Args:
        probs: π, (…, A).
        uniforms: Numbers in [0, 1), (…, G).

    Returns:
        The arm of each number, (…, G) int64.
    """
    cdf = probs.cumsum(-1)
    # In exact arithmetic u·total < total. Where rounding makes them equal, the last arm with mass is drawn.
    arms = torch.searchsorted(cdf, uniforms.to(cdf.dtype) * cdf[..., -1:], right=True)
    if arms.numel() == 0 or int(arms.max()) < probs.shape[-1]:
        return arms
    last = (probs > 0).to(torch.int64).cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(arms, last)


class ArmPolicy(ExactPolicy):
    """A policy that draws one arm for each prompt; a subclass says how log π depends on its parameters θ.

    Scores are gradients with respect to θ. Methods raise ValueError for masks and weights that do not broadcast to the
    arms, weights that are not finite, and uniforms outside [0, 1).
    """

    @property
    @abstractmethod
    def parameters(self) -> Tensor:
        """θ, batch axes first."""

    @abstractmethod
    def with_parameters(self, parameters: Tensor) -> Self:
        """The same policy with other parameters of the same shape."""

    @abstractmethod
    def pull_back(self, direction: Tensor) -> Tensor:
        """The gradient with respect to θ that belongs to a gradient with respect to the logits, (…, A)."""

    def sample(self, uniforms: Tensor) -> Tensor:
        """Draw arms by inverting the cumulative distribution.

        Args:
            uniforms: Numbers in [0, 1), (…, G).

        Returns:
            Arms, (…, G) int64.
        """
        probs = self.probs()
        check_uniforms(uniforms, probs.shape[:-1])
        return draw(probs, uniforms)

    def sampled_score(self, arms: Tensor, weights: Tensor) -> Tensor:
        """The gradient from sampled arms, Σ_i w_i ∇_θ log π(a_i).

        Args:
            arms: a_i, (…, G) int64.
            weights: w_i, (…, G).

        Returns:
            The gradient, of the shape of `parameters`.
        """
        return self.pull_back(sampled_logit_score(self.probs(), arms, weights))

    def expected_score(self, weights: Tensor, *, behaviour: Self | None = None) -> Tensor:
        """The exact expected gradient E[w_a ∇_θ log π_a].

        Args:
            weights: w, broadcast to (…, A).
            behaviour: Policy that arms are drawn from; this one where it is left out.

        Returns:
            The gradient, of the shape of `parameters`.
        """
        drawn = None if behaviour is None else behaviour.probs()
        probs = self.probs()
        return self.pull_back(expected_logit_score(probs, check_weights(weights, probs.shape), drawn))
