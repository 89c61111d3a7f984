"""Success probability and Pass@k of a policy all of whose responses are enumerated."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .tensor_checks import check_correct

__all__ = ["ExactPolicy", "pass_at_k"]


def pass_at_k(success: Tensor, k: int) -> Tensor:
    """The probability that at least one of k independent responses is correct.

    1 − (1 − p)^k, computed as −expm1(k·log1p(−p)), which is accurate for small p. A probability above 1, as a sum of
    probabilities may be by rounding, counts as 1.

    Args:
        success: Probability p that a response is correct, of any shape.
        k: Number of responses.

    Returns:
        Pass@k, of the same shape.

    Raises:
        ValueError: `k` is not an integer ≥ 1.

    >>> pass_at_k(torch.tensor([0.0, 0.5, 1.0]), 2)
    tensor([0.0000, 0.7500, 1.0000])
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected an integer ≥ 1, got {k!r}")
    return 0.0 - torch.expm1(k * torch.log1p(-success.clamp(max=1.0)))  # 0 − x: no negative zeros


class ExactPolicy(ABC):
    """A policy with the exact probability of each of its Y responses (arms, or the leaves of a tree)."""

    @abstractmethod
    def log_probs(self) -> Tensor:
        """log π of each response in nats, (…, Y)."""

    def probs(self) -> Tensor:
        """π of each response, (…, Y)."""
        return self.log_probs().exp()

    def success(self, correct: Tensor) -> Tensor:
        """The success probability p = Σ π over the correct responses.

        Args:
            correct: bool, broadcast to (…, Y).

        Returns:
            p of each batch entry, (…).

        Raises:
            ValueError: `correct` is not a bool mask of such a shape.
        """
        probs = self.probs()
        check_correct(correct, probs.shape)
        return (probs * correct).sum(-1)

    def pass_at_k(self, correct: Tensor, k: int) -> Tensor:
        """Exact Pass@k, over all that k independent responses can be.

        Args:
            correct: bool, broadcast to (…, Y).
            k: Number of responses.

        Returns:
            Pass@k of each batch entry, (…).

        Raises:
            ValueError: `k` is not an integer ≥ 1, or `correct` not a bool mask of such a shape.
        """
        return pass_at_k(self.success(correct), k)
