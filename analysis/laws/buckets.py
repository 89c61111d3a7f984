"""Sums over rank buckets of the vocabulary: the mass of the top token, of ranks 2–4, and so on.

Bucket edges are the last ranks of all buckets except the last, counted from one: (1, 4) makes the buckets 1, 2–4 and
5+. Ties are ranked by the lower token id. Membership is separate from the sums, so that a later distribution can be
summed over the tokens that were in a bucket before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from ..common.arguments import check_count, check_float, check_tensor
from ..common.short_repr import short_repr
from ..errors import UsageError
from .checks import check_ids, check_logits, check_temperature

__all__ = ["BucketSums", "bucket_membership", "bucket_sums", "sum_by_bucket"]


@short_repr
class BucketSums(NamedTuple):
    """Sums of a distribution over rank buckets, and the bucket of each token."""

    mass: Float[Tensor, "*batch buckets"]  # Σ π
    mass_sq: Float[Tensor, "*batch buckets"]  # Σ π²
    membership: Int8[Tensor, "*batch vocab"]  # bucket of each token


@torch.no_grad()
def bucket_membership(logits: Float[Tensor, "*batch vocab"], edges: Sequence[int]) -> Int8[Tensor, "*batch vocab"]:
    """Bucket of each token by its rank in the row. Cost: one sort.

    Args:
        logits: z, ranked from the greatest.
        edges: last rank of each bucket except the last, counted from one and increasing.

    Returns:
        Indices of buckets from 0.

    Raises:
        UsageError: edges that do not increase, logits that are not finite.

    >>> bucket_membership(torch.tensor([0.0, 2.0, 1.0, 1.0]), (1, 3))
    tensor([2, 0, 1, 1], dtype=torch.int8)
    """
    edges = _check_edges(edges)
    check_logits(logits)
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    bucket_of_rank = torch.bucketize(ranks, torch.tensor(edges, device=logits.device), right=True).to(torch.int8)
    return torch.empty_like(order, dtype=torch.int8).scatter_(-1, order, bucket_of_rank.expand(order.shape))


def _check_edges(edges: object) -> tuple[int, ...]:
    numbers: list[object] = []
    if not isinstance(edges, str | bytes) and isinstance(edges, Iterable):
        values = edges.tolist() if isinstance(edges, Tensor) else edges
        numbers = list(values) if isinstance(values, Iterable) else []
    ranks = tuple(int(edge) for edge in numbers if isinstance(edge, Integral))
    if not ranks or len(ranks) < len(numbers) or len(ranks) > 126 or any(b <= a for a, b in pairwise((0, *ranks))):
        raise UsageError(
            f"edges: expected increasing last ranks counted from one, as (1, 4, 16), got {tuple(numbers) or edges!r}"
        )
    return ranks


@torch.no_grad()
def sum_by_bucket(
    values: Float[Tensor, "*batch vocab"], membership: Int8[Tensor, "*batch vocab"], n_buckets: int
) -> Float[Tensor, "*batch {n_buckets}"]:
    """Sums of `values` over the tokens of each bucket, accumulated in float64.

    Args:
        values: one number for each token of the vocabulary.
        membership: from `bucket_membership`, of this distribution or an earlier one.
        n_buckets: one more than the number of edges.

    Returns:
        The sums, in the dtype of `values`.

    Raises:
        UsageError: shapes that differ.

    >>> sum_by_bucket(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 0, 1], dtype=torch.int8), 3)
    tensor([0.2000, 0.4000, 0.0000])
    """
    check_float("values", values)
    check_tensor("membership", membership)
    if values.shape != membership.shape:
        raise UsageError(
            f"values: expected the shape of membership, {tuple(membership.shape)}, got {tuple(values.shape)}"
        )
    check_count("n_buckets", n_buckets)
    check_ids("membership", membership, tuple(values.shape), n_buckets, "buckets")
    sums = torch.zeros(*values.shape[:-1], n_buckets, dtype=torch.float64, device=values.device)
    return sums.scatter_add_(-1, membership.long(), values.double()).to(values.dtype)


@torch.no_grad()
def bucket_sums(logits: Float[Tensor, "*batch vocab"], edges: Sequence[int], *, temperature: float = 1.0) -> BucketSums:
    """Mass Σπ and squared mass Σπ² of π = softmax(logits / temperature) by rank bucket.

    Args:
        logits: z; −inf masks a token.
        edges: last rank of each bucket except the last, counted from one and increasing.
        temperature: T, a positive number.

    Returns:
        Both sums and the membership.

    Raises:
        UsageError: edges that do not increase, logits that are not finite, a temperature that is not positive.

    >>> bucket_sums(torch.tensor([0.5, 0.25, 0.25]).log(), (1,)).mass_sq
    tensor([0.2500, 0.1250])
    """
    check_temperature(temperature)
    membership = bucket_membership(logits, edges)
    z = check_logits(logits)
    probs = torch.softmax(z / temperature, -1).double()
    mass, mass_sq = (sum_by_bucket(values, membership, len(edges) + 1) for values in (probs, probs.square()))
    return BucketSums(mass.to(z.dtype), mass_sq.to(z.dtype), membership)
