"""Pass@k of a policy whose success probability is known."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pass_at_k"]


def pass_at_k(success: Tensor, k: int) -> Tensor:
    """The probability that one of k independent responses is correct: 1 − (1−p)^k = −expm1(k·log1p(−p)), of p's shape.

    A sum of probabilities may exceed 1 by rounding: it counts as 1. Raises ValueError unless k is whole and at least 1.

    >>> pass_at_k(torch.tensor([0.0, 0.5, 1.0]), 2)
    tensor([0.0000, 0.7500, 1.0000])
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected a whole number of responses, at least 1, got {k!r}")
    return 0.0 - torch.expm1(k * torch.log1p(-success.clamp(max=1.0)))  # 0 − x: no negative zeros
