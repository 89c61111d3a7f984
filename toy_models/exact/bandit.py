"""Softmax bandits: a table of logits, one arm per response, everything exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from .arms import ArmPolicy, logit_score_covariance
from .tensor_checks import check_logits, check_weights

__all__ = ["Bandit"]


@dataclass(frozen=True)
class Bandit(ArmPolicy):
    """π = softmax(logits) over the last axis.

    All leading axes are batch axes, for seeds or prompts; with an axis of prompts it is a contextual bandit.

    Raises ValueError for logits that are not finite or have no arm.

    Attributes:
        logits: z, (…, A).

    >>> import torch
    >>> bandit = Bandit(torch.zeros(4))
    >>> bandit.success(torch.tensor([True, False, False, False]))
    tensor(0.2500)
    >>> bandit.expected_score(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # ∇p: reward 1 for the first arm
    tensor([ 0.1875, -0.0625, -0.0625, -0.0625])
    """

    logits: Tensor

    def __post_init__(self) -> None:
        check_logits("logits", self.logits)

    @classmethod
    def from_probs(cls, probs: Tensor) -> Bandit:
        """The bandit with given probabilities.

        Args:
            probs: π, (…, A).

        Raises:
            ValueError: They are not positive, or do not sum to 1 over the arms.
        """
        sums = probs.sum(-1)
        if not (bool((probs > 0).all()) and bool(((sums - 1).abs() <= 1e-6).all())):
            worst = float(sums.flatten()[(sums - 1).abs().argmax()])
            raise ValueError(
                f"probs: expected positive numbers that sum to 1 over the last axis, got a smallest one of "
                f"{float(probs.min()):.3g} and a sum of {worst:.6g}; divide by probs.sum(-1, keepdim=True)"
            )
        return cls(probs.log())

    @property
    def parameters(self) -> Tensor:
        """θ: the logits themselves, (…, A)."""
        return self.logits

    def with_parameters(self, parameters: Tensor) -> Self:
        """The same bandit with other logits of the same shape."""
        return replace(self, logits=parameters)

    def log_probs(self) -> Tensor:
        """log π of each arm in nats, (…, A)."""
        return self.logits.log_softmax(-1)

    def pull_back(self, direction: Tensor) -> Tensor:
        """The direction itself, since the logits are the parameters."""
        return direction

    def score_covariance(self, weights: Tensor) -> Tensor:
        """The exact covariance of w_a ∇ log π_a for one drawn arm; that of a mean of n draws is 1/n of it.

        Args:
            weights: w, broadcast to (…, A).

        Returns:
            The covariance, (…, A, A).
        """
        return logit_score_covariance(self.probs(), check_weights(weights, self.logits.shape))
