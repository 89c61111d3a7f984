"""Softmax bandits: one table of logits, one arm a response, everything exact.

All leading axes of the logits are batch axes: seeds, and prompts, which makes it a contextual bandit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from .arms import ArmPolicy, logit_score_covariance
from .tensor_checks import check_logits, check_weights

__all__ = ["Bandit"]


@dataclass(frozen=True)
class Bandit(ArmPolicy):
    """π = softmax(logits) over the last axis; logits (…, A). A prompt axis before it makes a contextual bandit.

    Raises ValueError for logits that are not finite or have no arm.

    >>> import torch
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
        if not (bool((probs > 0).all()) and bool(((sums - 1).abs() <= 1e-6).all())):
            worst = float(sums.flatten()[(sums - 1).abs().argmax()])
            raise ValueError(
                f"probs: expected positive numbers that sum to one over the last axis, got a least one of "
                f"{float(probs.min()):.3g} and a sum of {worst:.6g}; divide by probs.sum(-1, keepdim=True)"
            )
        return cls(probs.log())

    @property
    def parameters(self) -> Tensor:
        """θ: the logits themselves."""
        return self.logits

    def with_parameters(self, parameters: Tensor) -> Self:
        """The same policy at other parameters of the same shape."""
        return replace(self, logits=parameters)

    def log_probs(self) -> Tensor:
        """log π of each arm, (…, A) in nats."""
        return self.logits.log_softmax(-1)

    def pull_back(self, direction: Tensor) -> Tensor:
        """The direction itself: the logits are the parameters."""
        return direction

    def score_covariance(self, weights: Tensor) -> Tensor:
        """Exact covariance of w_a ∇ log π_a for one sampled arm, (…, A, A); that of a mean of n draws is 1/n of it."""
        return logit_score_covariance(self.probs(), check_weights(weights, self.logits.shape))
