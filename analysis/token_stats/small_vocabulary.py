"""Statistics over a small vocabulary, which lies down the columns here: (vocab, rows).

Reductions over a row of 64 numbers cannot use a processor's vectors, reductions down 64 columns of thousands can. The
largest tokens are found one after the other, each pass taking the largest of those that are left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..laws.softmax import FAR, TokenStatistics
from .from_sums import OwnLogits, concatenate, finish
from .large_logits import SHARP
from .partial_sums import NEGLIGIBLE, VOID, Partial
from .sources import HeadSource, Source
from .streaming import Request

__all__ = ["SMALL_VOCABULARY", "small_vocabulary"]

SMALL_VOCABULARY = 256
_ROWS = 2048
# The float64 arithmetic on sums is done for many blocks together: on 2048 numbers a call costs more than its work.
_FINISHED_AT_ONCE = 32768
# From here on `topk` along the rows is cheaper than passes down the columns.
_MANY = 24
# Added to a logit that was taken: below any other, and finite, unlike a masked one.
_TAKEN = -1e37


_KINDS: tuple[Any, Any] = (Partial, OwnLogits)


def small_vocabulary(source: Source, request: Request) -> TokenStatistics:
    """The statistics of all rows of `source`, (n,) each."""
    inv_t = 1 / request.temperature
    space = torch.empty((4, source.vocab * min(_ROWS, max(source.n, 1))), dtype=source.dtype, device=source.device)
    groups = []
    for start in range(0, max(source.n, 1), _FINISHED_AT_ONCE):
        stop = min(start + _FINISHED_AT_ONCE, source.n)
        blocks = [
            _block(source, request, a, min(a + _ROWS, stop), space) for a in range(start, max(stop, start + 1), _ROWS)
        ]
        sums, logits = (
            kind(*(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)))
            for kind, parts in zip(_KINDS, zip(*blocks, strict=True), strict=True)
        )
        groups.append(finish(sums, request.tokens[start:stop], logits, inv_t, source.dtype))
    return concatenate(groups)


def _block(source: Source, request: Request, start: int, stop: int, space: Tensor) -> tuple[Partial, OwnLogits]:
    """`space` (4, ≥ vocab·rows): arrays that all blocks share, since fresh ones cost more than the arithmetic."""
    inv_t = 1 / request.temperature
    source.open(start, stop)
    shape = (source.vocab, stop - start)
    z, first, second, third = (part[: shape[0] * shape[1]].view(shape) for part in space)
    z.copy_(source.chunk(0, source.vocab).t())
    if isinstance(source, HeadSource) and source.dtype == torch.float32 and bool((z.amax(0).abs() > SHARP).any()):
        z.copy_(source.exact_chunk(0, source.vocab).t())
    y = request.tokens[start:stop]
    z_y = z.gather(0, y[None]).squeeze(0)

    k = min(request.top_k, source.vocab)
    values, ids = _largest(z, k if 2 < k <= _MANY else 2, first, second)
    top = top_ids = listed = None
    if k:
        best, best_ids = (values, ids) if k <= _MANY else _largest_by_sorting(z, k)
        top, top_ids = best[:k].t(), best_ids[:k].t()
    if request.listed is not None:
        rows = request.listed if request.listed.ndim == 1 else request.listed[start:stop]
        listed = z[rows].t() if rows.ndim == 1 else z.gather(0, rows.t()).t()
    logits = OwnLogits(z_y, _rank(z, y, z_y, first) if request.rank else None, top, top_ids, listed)

    peak, peak_id = values[0], ids[0]
    runner_up = (values[1] if len(values) > 1 else torch.full_like(peak, VOID)).clamp(min=VOID)
    runner_up = torch.maximum(runner_up, peak - FAR / inv_t)
    t = torch.sub(z, runner_up, out=first)
    if inv_t != 1:
        t.mul_(inv_t)
    t.clamp_(min=NEGLIGIBLE).scatter_(0, peak_id[None], NEGLIGIBLE)
    e = torch.exp(t, out=second)
    e0, t1 = e.sum(0), t.mul_(e).sum(0)
    e2, q1 = torch.mul(e, e, out=third).sum(0), t.mul_(e).sum(0)
    sums = (part.double() for part in (e0, t1, e2, q1))
    return Partial(peak.double(), peak_id, runner_up.double(), *sums), logits


def _rank(z: Tensor, y: Tensor, z_y: Tensor, flags: Tensor) -> Tensor:
    rank = torch.gt(z, z_y, out=flags).sum(0)  # sums of numbers are faster than those of booleans
    equal = torch.eq(z, z_y, out=flags)
    if (equal.sum(0) > 1).any():
        rank += (equal * (torch.arange(len(z), device=z.device)[:, None] < y)).sum(0)
    return rank.long()


def _largest(z: Tensor, k: int, left: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest of each column of z (vocab, n), (≤ k, n), and their ids, ties by the lower one."""
    k = min(k, len(z))
    left.copy_(z)
    numbers = torch.arange(len(z), dtype=z.dtype, device=z.device)
    values, ids = z.new_empty((k, z.shape[1])), z.new_empty((k, z.shape[1]))
    for i in range(k):
        torch.amax(left, 0, out=values[i])
        torch.eq(left, values[i], out=flags)
        torch.mv(flags.t(), numbers, out=ids[i])  # where one token has the value, its number
        left.add_(flags, alpha=_TAKEN)
    # Passes go wrong where they take equal values at once, or one a second time (the others are masked), and with NaN.
    ids = ids.long()
    wrong = torch.lt(left, _TAKEN / 2, out=flags).sum(0) != k
    if wrong.any():
        wrong = torch.logical_and(flags, z > float("-inf")).sum(0) != k
    wrong = torch.nonzero(wrong | (values[-1] < _TAKEN / 2)).squeeze(1)
    if len(wrong):
        values[:, wrong], ids[:, wrong] = _largest_by_sorting(z[:, wrong], k)
    return values, ids


def _largest_by_sorting(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, ids = z.sort(dim=0, descending=True, stable=True)
    return values[:k], ids[:k]
