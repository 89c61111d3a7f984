"""Statistics over a small vocabulary, which lies down the columns here: (vocab, rows).

Reductions over a row of 64 numbers cannot use a processor's vectors, reductions down 64 columns of thousands can. The
largest tokens are found one after the other, each pass taking the largest of those that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws.softmax import FAR, TokenStatistics
from .partial import VOID, Partial
from .sources import Source
from .streaming import OwnLogits, Request, concatenate, finish

__all__ = ["SMALL_VOCABULARY", "small_vocabulary"]

SMALL_VOCABULARY = 256
_ROWS = 2048
# From here on `topk` along the rows is cheaper than passes down the columns.
_MANY = 24


def small_vocabulary(source: Source, request: Request) -> TokenStatistics:
    """The statistics of all rows of `source`, (n,) each."""
    return concatenate(
        [_block(source, request, start, min(start + _ROWS, source.n)) for start in range(0, max(source.n, 1), _ROWS)]
    )


def _block(source: Source, request: Request, start: int, stop: int) -> TokenStatistics:
    inv_t = 1 / request.temperature
    source.open(start, stop)
    z = source.chunk(0, source.vocab).t().contiguous()
    y = request.tokens[start:stop]
    z_y = z.gather(0, y[None]).squeeze(0)

    k = min(request.top_k, source.vocab)
    values, ids = _largest(z, k if 2 < k <= _MANY else 2)
    peak, peak_id = values[0], ids[0]
    runner_up = (values[1] if len(values) > 1 else torch.full_like(peak, VOID)).clamp(min=VOID)
    runner_up = torch.maximum(runner_up, peak - FAR / inv_t)

    t = (z - runner_up).scatter_(0, peak_id[None], -FAR)
    if inv_t != 1:
        t.mul_(inv_t)
    if request.masked:
        t.clamp_(min=-FAR)
    e = t.exp()
    e0, t1 = e.sum(0), t.mul_(e).sum(0)
    e2, q1 = (e * e).sum(0), t.mul_(e).sum(0)
    sums = (part.double() for part in (e0, t1, e2, q1))
    whole = Partial(peak.double(), peak_id, runner_up.double(), *sums)

    top = top_ids = listed = None
    if k > _MANY or (k and torch.isinf(values[k - 1]).any()):  # passes cannot tell masked tokens from taken ones
        values, ids = _largest_by_sorting(z, k)
    if k:
        top, top_ids = values[:k].t(), ids[:k].t()
    if request.listed is not None:
        rows = request.listed if request.listed.ndim == 1 else request.listed[start:stop]
        listed = z[rows].t() if rows.ndim == 1 else z.gather(0, rows.t()).t()
    own = OwnLogits(z_y, _rank(z, y, z_y) if request.rank else None, top, top_ids, listed)
    return finish(whole, y, own, inv_t, source.dtype)


def _rank(z: Tensor, y: Tensor, z_y: Tensor) -> Tensor:
    rank = (z > z_y).sum(0)
    equal = z == z_y
    if (equal.sum(0) > 1).any():
        rank += (equal & (torch.arange(len(z), device=z.device)[:, None] < y)).sum(0)
    return rank


def _largest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column of z (vocab, n), (k, n), and their ids, ties by the lower one."""
    left = z.clone()
    numbers = torch.arange(len(z), dtype=z.dtype, device=z.device)
    ones = torch.ones_like(numbers)
    values, ids = [], []
    flags = torch.empty_like(z)
    for _ in range(min(k, len(z))):
        value = left.amax(0)
        torch.eq(left, value, out=flags)
        # Where one token has the value its number is the sum of the numbers that have it.
        which = torch.mv(flags.t(), numbers).long()
        tied = torch.mv(flags.t(), ones) != 1
        if tied.any():
            which[tied] = left[:, tied].max(0).indices  # the first of equals; also where the value is not a number
        left.scatter_(0, which[None], float("-inf"))
        values.append(value)
        ids.append(which)
    return torch.stack(values), torch.stack(ids)


def _largest_by_sorting(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, ids = z.sort(dim=0, descending=True, stable=True)
    return values[:k], ids[:k]
