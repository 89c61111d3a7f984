"""Which tokens are chosen over a minibatch: how many, against exact arithmetic, and which, against sorting."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import pytest
import torch

from analysis.objectives import TokenBatch, get

COUNTS = (*range(1, 150), 1_000, 2_475, 9_975, 10_000)


def chosen(name: str, share: str, count: int) -> int:
    """How many of `count` tokens with different entropies and covariances an objective with that share selects."""
    values = torch.linspace(-3, -0.1, count, dtype=torch.float64)[None]
    advantages = torch.linspace(-1, 2, count, dtype=torch.float64)[None]
    batch = TokenBatch(values, values, advantages, entropy=-values)
    parameters = {"cov_low": -1e9, "cov_high": 1e9} if name == "clip-cov" else {}
    selection = get(name, share=float(share), **parameters).prepare(batch).selection
    assert selection is not None
    return int(selection.sum())


@pytest.mark.parametrize("share", ["0.28", "0.29", "0.07", "0.0002"])
def test_counts_are_those_of_the_decimals(share: str) -> None:
    exact = Fraction(share)
    for count in COUNTS:
        assert chosen("high-entropy", share, count) == ceil(exact * count)
        for name in ("kl-cov", "clip-cov"):
            assert chosen(name, share, count) == max(1, floor(exact * count)), (name, count)


def test_ties_with_the_last_entropy_are_kept() -> None:
    entropy = torch.tensor([[0.5, 2.0, 1.0, 1.0], [1.0, 0.1, 0.2, 3.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    batch = TokenBatch(-entropy, -entropy, torch.ones(2), mask, entropy=entropy)
    selection = get("high-entropy", share=0.2).prepare(batch).selection  # 2 of 7
    assert selection is not None
    assert selection.tolist() == [[False, True, True, True], [True, False, False, False]]
