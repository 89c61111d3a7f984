"""Rank buckets against a slow count."""

from __future__ import annotations

import pytest
import torch

from analysis.laws import bucket_membership, bucket_sums, sum_by_bucket
from tests.reference import softmax_dense as dense

EDGES = (1, 4, 16)


def slow_bucket(row: list[float], token: int) -> int:
    """Bucket of the rank counted from one: how many edges lie below it."""
    rank = 1 + sum(z > row[token] or (z == row[token] and v < token) for v, z in enumerate(row))
    return sum(rank > edge for edge in EDGES)


@pytest.mark.parametrize("kind", ["random", "uniform", "tied"])
def test_membership_against_a_count(kind: str) -> None:
    logits, _ = dense.rows(kind, n=21)
    logits = logits.round()
    membership = bucket_membership(logits, EDGES)
    assert membership.dtype == torch.int8
    assert membership.tolist() == [[slow_bucket(row, v) for v in range(len(row))] for row in logits.tolist()]


def test_sums_are_of_the_distribution_at_the_temperature() -> None:
    logits, _ = dense.rows("random", n=10)
    sums = bucket_sums(logits, EDGES, temperature=0.5)
    probs = torch.softmax(logits / 0.5, -1).sort(-1, descending=True).values
    for b, (low, high) in enumerate(((0, 1), (1, 4), (4, 16), (16, 24))):
        torch.testing.assert_close(sums.mass[:, b], probs[:, low:high].sum(-1))
        torch.testing.assert_close(sums.mass_sq[:, b], probs[:, low:high].square().sum(-1))


def test_membership_applies_to_another_distribution() -> None:
    before, after = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    membership = bucket_membership(before, (1, 3))
    torch.testing.assert_close(sum_by_bucket(after, membership, 3), torch.tensor([0.1, 0.5, 0.4]))


def test_float32_tail_of_a_large_vocabulary() -> None:
    logits = torch.zeros(1, 151_936)
    sums = bucket_sums(logits, EDGES)
    assert float(sums.mass[0, -1]) == pytest.approx(1 - 16 / 151_936, rel=1e-6)
    assert sums.mass.dtype == torch.float32


def test_more_edges_than_tokens() -> None:
    sums = bucket_sums(torch.tensor([[0.0, 0.0]]), EDGES)
    assert sums.mass.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_bad_input_is_named() -> None:
    for edges in ((), (0, 4), (4, 4), (4, 1)):
        with pytest.raises(ValueError, match="edges: expected increasing last ranks counted from one"):
            bucket_membership(torch.zeros(3), edges)
    with pytest.raises(ValueError, match=r"values: expected the shape of membership, \(3,\), got \(2,\)"):
        sum_by_bucket(torch.zeros(2), torch.zeros(3, dtype=torch.int8), 2)
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        bucket_membership(torch.tensor([0.0, torch.nan]), EDGES)
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        bucket_sums(torch.zeros(3), EDGES, temperature=0)
