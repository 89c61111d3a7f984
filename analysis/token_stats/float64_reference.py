"""The float64 reference: whole rows by the dense form of the laws. What the other back ends are held against."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from ..laws.softmax import TokenStatistics, row_statistics
from .from_sums import concatenate
from .sources import Source
from .streaming import Request

__all__ = ["reference"]

_ROWS, _COLUMNS = 64, 4096


def reference(source: Source, request: Request) -> TokenStatistics:
    """The statistics of all rows of a float64 `source`, (n,) each, in float64."""
    blocks = []
    for start in range(0, max(source.n, 1), _ROWS):
        stop = min(start + _ROWS, source.n)
        source.open(start, stop)
        edges = [*range(0, source.vocab, _COLUMNS), source.vocab]
        z = torch.cat([source.chunk(first, last).clone() for first, last in pairwise(edges)], 1)
        y = request.tokens[start:stop]
        stats = row_statistics(z, y, temperature=request.temperature, top_k=request.top_k, rank=request.rank)
        if request.listed is not None:
            listed = request.listed[start:stop] if request.listed.ndim == 2 else request.listed.expand(len(z), -1)
            s = (z - z.amax(-1, keepdim=True)) / request.temperature
            probs = torch.exp(s.gather(1, listed)) / torch.exp(s).sum(-1, keepdim=True)
            stats = replace(stats, probs_of=probs)
        blocks.append(stats)
    return concatenate(blocks)
