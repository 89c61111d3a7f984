"""The k most probable tokens of each row, kept while the vocabulary goes by in chunks.

Once k are there, only slabs whose maximum exceeds the row's k-th value are looked at, which are few: of the k best of
j chunks, k/j are expected to come from the last. What exceeds it waits until enough has gathered to be sorted in.
Equal values keep the lower id.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws.softmax import largest
from .kernels import Kernels

__all__ = ["RunningTop"]

# As a share of n·k: with more waiting, the k-th value is out of date and too much passes for a candidate.
_SORT_AT = 1


class RunningTop:
    """The k largest logits of each row so far and their ids, largest first, ties by the lower id."""

    def __init__(self, k: int, kernels: Kernels) -> None:
        self._k = k
        self._kernels = kernels
        self._values: Tensor | None = None  # (n, ≤ k)
        self._ids: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, ids and values above the k-th, chunk by chunk

    def add(self, z: Tensor, first: int, slab_max: Tensor) -> None:
        """Take in logits z (n, C) of the tokens from `first` on, whose maxima by slab are `slab_max`."""
        if self._values is None or self._ids is None:
            self._values, at = largest(z, min(self._k, z.shape[1]))
            self._ids = at + first
            return
        if self._values.shape[1] < self._k:
            ids = torch.arange(first, first + z.shape[1], device=z.device).expand_as(z)
            values, ids = torch.cat([self._values, z], 1), torch.cat([self._ids, ids], 1)
            self._values, at = largest(values, min(self._k, values.shape[1]))
            self._ids = ids.gather(1, at)
            return
        rows, columns, values = self._kernels.exceeding(z, slab_max, self._values[:, -1])
        if not len(rows):
            return
        self._waiting.append((rows, columns + first, values))
        if sum(len(rows) for rows, _, _ in self._waiting) >= _SORT_AT * self._values.numel():
            self._sort_in()

    def sorted(self) -> tuple[Tensor, Tensor]:
        """(values, ids), (n, k) each."""
        if self._waiting:
            self._sort_in()
        assert self._values is not None
        assert self._ids is not None
        return self._values, self._ids

    def _sort_in(self) -> None:
        assert self._values is not None
        assert self._ids is not None
        rows, ids, values = (torch.cat(column) for column in zip(*self._waiting, strict=True))
        self._waiting.clear()
        # Stable: within a row ids stay in order, so that `largest` sees the lower ones further left.
        rows, order = rows.sort(stable=True)
        affected, counts = torch.unique_consecutive(rows, return_counts=True)
        starts = counts.cumsum(0) - counts
        row = torch.repeat_interleave(counts)
        lane = torch.arange(len(rows), device=rows.device) - starts[row]
        shape = (len(affected), int(counts.max()))
        new_values = torch.full(shape, float("-inf"), dtype=values.dtype, device=values.device)
        new_ids = torch.zeros(shape, dtype=torch.int64, device=values.device)
        new_values[row, lane], new_ids[row, lane] = values[order], ids[order]
        best, at = largest(torch.cat([self._values[affected], new_values], 1), self._k)
        self._values[affected] = best
        self._ids[affected] = torch.cat([self._ids[affected], new_ids], 1).gather(1, at)
