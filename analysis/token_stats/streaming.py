"""Statistics of rows whose vocabulary goes by in chunks: memory is flat in the number of rows and of tokens.

For each block of rows and chunk of the vocabulary: the logits (a product, or a part of those given), maxima by slab,
the chunk's largest token and its runner-up, the sums of all others relative to it, what the rank and the top k need.
The chunks' parts are put together in float64 (`partial_sums`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.softmax import TokenStatistics
from .from_sums import OwnLogits, concatenate, finish
from .kernels import Kernels
from .large_logits import SHARP, sharpen
from .most_probable import RunningTop
from .partial_sums import Partial, merge
from .sources import Source

__all__ = ["Request", "Tiles", "stream"]

_MERGE_AFTER = 32  # chunks; bounds what the parts of a block take


class Tiles(NamedTuple):
    """How much goes through the product at once."""

    rows: int
    columns: int  # a multiple of SLAB


class Request(NamedTuple):
    """What is asked of n rows."""

    tokens: Tensor  # (n,) int64
    temperature: float
    top_k: int
    rank: bool
    listed: Tensor | None  # (n, L) or (L,) int64, tokens whose probability is asked for


def stream(source: Source, request: Request, kernels: Kernels, tiles: Tiles) -> TokenStatistics:
    """The statistics of all rows of `source`, (n,) each."""
    return concatenate(
        [
            _block(source, request, kernels, tiles.columns, start, min(start + tiles.rows, source.n))
            for start in range(0, max(source.n, 1), tiles.rows)
        ]
    )


def _block(source: Source, request: Request, kernels: Kernels, columns: int, start: int, stop: int) -> TokenStatistics:
    inv_t = 1 / request.temperature
    source.open(start, stop)
    y = request.tokens[start:stop]
    z_y = source.token_logits(y)
    below_y = torch.nextafter(z_y, torch.full_like(z_y, float("-inf")))
    rank = torch.zeros_like(y) if request.rank else None
    top = RunningTop(request.top_k, kernels) if request.top_k else None
    listed, listed_logits = _listed(request, start, stop, z_y)
    edges = [*range(0, source.vocab, columns), source.vocab]
    parts: list[Partial] = []
    peaks: list[tuple[Tensor, Tensor]] = []  # of each chunk: the largest logit and its token

    for first, last, rows in zip(edges, edges[1:], _rows_by_chunk(y, edges), strict=False):
        z = source.chunk(first, last)
        own = y[rows] - first
        if source.own_buffer:  # y's logit is worked out once, more accurately, and must be the same everywhere
            z[rows, own] = z_y[rows]
        # A tie counts where its id is lower: before y's chunk, and within it in front of y.
        threshold = torch.where(y >= last, below_y, z_y) if rank is not None else None
        part = kernels.chunk(z, threshold, inv_t)
        if rank is not None and part.above is not None:
            rank += part.above.long()
            if len(rows):
                rank[rows] += _ties_before(z[rows], z_y[rows], own)
        if top is not None:
            top.add(z, first, part.slab_max)
        if listed is not None and listed_logits is not None:
            at = (listed - first).clamp(0, last - first - 1)
            inside = (listed >= first) & (listed < last)
            listed_logits = torch.where(inside, z.gather(1, at), listed_logits)
        peaks.append((part.peak, part.column + first))
        parts.append(Partial(part.peak, part.column + first, part.runner_up, part.e0, part.t1, part.e2, part.q1))
        if len(parts) > _MERGE_AFTER:
            parts = [merge(parts, inv_t)]

    values, ids = top.sorted() if top else (None, None)
    logits = OwnLogits(z_y, rank, values, ids, listed_logits)
    sums = merge(parts, inv_t)
    sharp = source.own_buffer and source.dtype == torch.float32 and len(y) > 0
    if sharp and float(sums.top.abs().max()) > SHARP:
        sums, logits = sharpen(source, sums, logits, listed, peaks, inv_t)
    return finish(sums, y, logits, inv_t, source.dtype)


def _rows_by_chunk(y: Tensor, edges: list[int]) -> list[Tensor]:
    """Which rows have their token in each chunk."""
    in_order, rows = y.sort()
    cuts = torch.searchsorted(in_order, torch.tensor(edges, device=y.device))
    return list(rows.split(cuts.diff().tolist()))


def _listed(request: Request, start: int, stop: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if request.listed is None:
        return None, None
    listed = request.listed[start:stop] if request.listed.ndim == 2 else request.listed.expand(stop - start, -1)
    return listed, torch.zeros(listed.shape, dtype=like.dtype, device=like.device)


def _ties_before(z: Tensor, z_y: Tensor, own: Tensor) -> Tensor:
    equal = z == z_y[:, None]
    if torch.count_nonzero(equal) == len(z):  # each row's own
        return torch.zeros_like(own)
    columns = torch.arange(z.shape[1], device=z.device)
    return (equal & (columns < own[:, None])).sum(1)
