"""Statistics of rows whose vocabulary goes by in chunks: memory is flat in the number of rows and of tokens.

For each block of rows and chunk of the vocabulary: the logits (a product, or a part of those given), maxima by slab,
the chunk's largest token and its runner-up, the sums of all others relative to it, what the rank and the top k need.
The chunks' parts are put together in float64 (`partial.py`).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.softmax import TokenStatistics, statistics_from_sums
from .kernels import SLAB, Kernels
from .partial import VOID, Partial, merge, residual_sums
from .sources import Source
from .top import RunningTop, slabs_of

__all__ = ["OwnLogits", "Request", "Tiles", "concatenate", "finish", "stream"]

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
    masked: bool  # logits may be −inf


def stream(source: Source, request: Request, kernels: Kernels, tiles: Tiles) -> TokenStatistics:
    """The statistics of all rows of `source`, (n,) each."""
    return concatenate(
        [
            _block(source, request, kernels, tiles.columns, start, min(start + tiles.rows, source.n))
            for start in range(0, max(source.n, 1), tiles.rows)
        ]
    )


def concatenate(parts: list[TokenStatistics]) -> TokenStatistics:
    """Statistics of several blocks of rows as those of all."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(TokenStatistics)}
    return TokenStatistics(**{name: None if xs[0] is None else torch.cat(xs) for name, xs in columns.items()})


def _block(
    source: Source, request: Request, kernels: Kernels, columns: int, start: int, stop: int
) -> TokenStatistics:
    inv_t = 1 / request.temperature
    source.open(start, stop)
    y = request.tokens[start:stop]
    z_y = source.token_logits(y)
    below_y = torch.nextafter(z_y, torch.full_like(z_y, float("-inf")))
    rank = torch.zeros_like(y) if request.rank else None
    top = RunningTop(stop - start, request.top_k, source.dtype, source.device) if request.top_k else None
    listed, listed_logits = _listed(request, start, stop, z_y)
    parts: list[Partial] = []

    for first in range(0, source.vocab, columns):
        last = min(first + columns, source.vocab)
        z = source.chunk(first, last)
        own = (y - first).clamp(0, last - first - 1)[:, None]
        here = (y >= first) & (y < last)
        if source.own_buffer:  # y's logit is worked out once, more accurately, and must be the same everywhere
            z.scatter_(1, own, torch.where(here, z_y, z.gather(1, own).squeeze(1))[:, None])
        # A tie counts where its id is lower: before y's chunk, and within it in front of y.
        slab_max, above = kernels.scan(z, torch.where(y >= last, below_y, z_y) if rank is not None else None)
        if rank is not None and above is not None:
            rank += above.long()
            rows = torch.nonzero(here).squeeze(1)
            rank[rows] += _ties_before(z[rows], z_y[rows], own[rows])
        if top is not None:
            top.add(z, first, slab_max, SLAB)
        if listed is not None and listed_logits is not None:
            at = (listed - first).clamp(0, last - first - 1)
            inside = (listed >= first) & (listed < last)
            listed_logits = torch.where(inside, z.gather(1, at), listed_logits)
        peak, column, runner_up = _two_largest(z, slab_max)
        sums = kernels.sums(z, runner_up, column, inv_t, request.masked)
        parts.append(Partial(peak, column + first, runner_up, *sums))
        if len(parts) > _MERGE_AFTER:
            parts = [merge(parts, inv_t)]

    logits = OwnLogits(z_y, rank, top.values if top else None, top.ids if top else None, listed_logits)
    return finish(merge(parts, inv_t), y, logits, inv_t, source.dtype)


class OwnLogits(NamedTuple):
    """What was picked from a block's logits, and where y stands among them."""

    y: Tensor  # (n,)
    rank: Tensor | None
    top: Tensor | None  # (n, k)
    top_ids: Tensor | None
    listed: Tensor | None  # (n, L)


def finish(
    whole: Partial, y: Tensor, logits: OwnLogits, inv_temperature: float, dtype: torch.dtype
) -> TokenStatistics:
    """Statistics of a block of rows from the sums over the whole vocabulary."""
    s_y = (logits.y.double() - whole.top) * inv_temperature
    sums = residual_sums(whole, inv_temperature)
    stats, total = statistics_from_sums(sums, s_y, whole.top_id, whole.top_id == y, dtype=dtype)

    def probs(some: Tensor | None) -> Tensor | None:
        if some is None:
            return None
        return (torch.exp((some.double() - whole.top[:, None]) * inv_temperature) / total[:, None]).to(dtype)

    return replace(
        stats,
        token_rank=logits.rank,
        top_ids=logits.top_ids,
        top_probs=probs(logits.top),
        probs_of=probs(logits.listed),
    )


def _listed(request: Request, start: int, stop: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if request.listed is None:
        return None, None
    listed = request.listed[start:stop] if request.listed.ndim == 2 else request.listed.expand(stop - start, -1)
    return listed, torch.zeros(listed.shape, dtype=like.dtype, device=like.device)


def _ties_before(z: Tensor, z_y: Tensor, own: Tensor) -> Tensor:
    columns = torch.arange(z.shape[1], device=z.device)
    return ((z == z_y[:, None]) & (columns < own)).sum(1)


def _two_largest(z: Tensor, slab_max: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest logit of each row, its column (the lower of equal ones), and the largest of the others.

    From the slabs' maxima and the one slab that holds the largest. What is not finite stays where the sums show it.
    """
    peak, slab = slab_max.max(1)  # the first of equals
    values = slabs_of(z, torch.arange(len(z), device=z.device), slab, SLAB)
    lane = values.argmax(1, keepdim=True)  # likewise
    rest = values.scatter_(1, lane, float("-inf")).amax(1)
    others = slab_max.scatter_(1, slab[:, None], float("-inf")).amax(1)
    return peak, slab * SLAB + lane.squeeze(1), torch.maximum(rest, others).clamp(min=VOID)
