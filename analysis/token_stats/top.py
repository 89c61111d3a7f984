"""The k most probable tokens of each row, kept while the vocabulary goes by in chunks.

Once k are there, only slabs whose maximum exceeds the row's k-th value are looked at, which are few: of the k best of
j chunks, k/j are expected to come from the last. Equal values keep the lower id.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws.softmax import largest

__all__ = ["RunningTop", "slabs_of"]


def slabs_of(z: Tensor, rows: Tensor, slabs: Tensor, width: int) -> Tensor:
    """Columns [slab·width, (slab + 1)·width) of some rows of z (n, C), (rows, width); −inf beyond the last column."""
    whole = z.shape[1] // width
    if whole * width == z.shape[1]:
        return z.unflatten(1, (whole, width))[rows, slabs]
    values = z.new_full((len(rows), width), float("-inf"))
    inner = torch.nonzero(slabs < whole).squeeze(1)
    if whole:
        values[inner] = z[:, : whole * width].unflatten(1, (whole, width))[rows[inner], slabs[inner]]
    last = torch.nonzero(slabs == whole).squeeze(1)
    values[last, : z.shape[1] - whole * width] = z[rows[last], whole * width :]
    return values


class RunningTop:
    """`values` and `ids` (n, ≤ k) of the largest logits so far, largest first, ties by the lower id."""

    def __init__(self, n: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.values = torch.empty((n, 0), dtype=dtype, device=device)
        self.ids = torch.empty((n, 0), dtype=torch.int64, device=device)
        self._k = k

    def add(self, z: Tensor, first: int, slab_max: Tensor, width: int) -> None:
        """Take in logits z (n, C) of the tokens from `first` on, whose maxima by slabs of `width` are `slab_max`."""
        if not self.values.shape[1]:
            self.values, at = largest(z, min(self._k, z.shape[1]))
            self.ids = at + first
            return
        if self.values.shape[1] < self._k:
            ids = torch.arange(first, first + z.shape[1], device=z.device).expand_as(z)
            self._keep(slice(None), torch.cat([self.values, z], 1), torch.cat([self.ids, ids], 1))
            return
        rows, slabs = torch.nonzero(slab_max > self.values[:, -1:], as_tuple=True)
        if not len(rows):
            return
        values = slabs_of(z, rows, slabs, width)
        which, lane = torch.nonzero(values > self.values[rows, -1:], as_tuple=True)
        self._insert(rows[which], slabs[which] * width + lane + first, values[which, lane])

    def _insert(self, rows: Tensor, ids: Tensor, values: Tensor) -> None:
        """Candidates, ordered by row and then by id, join the entries of their rows."""
        affected, counts = torch.unique_consecutive(rows, return_counts=True)
        starts = counts.cumsum(0) - counts
        row = torch.repeat_interleave(torch.arange(len(affected), device=rows.device), counts)
        lane = torch.arange(len(rows), device=rows.device) - starts[row]
        shape = (len(affected), int(counts.max()))
        new_values = torch.full(shape, float("-inf"), dtype=values.dtype, device=values.device)
        new_ids = torch.zeros(shape, dtype=torch.int64, device=values.device)
        new_values[row, lane], new_ids[row, lane] = values, ids
        self._keep(
            affected, torch.cat([self.values[affected], new_values], 1), torch.cat([self.ids[affected], new_ids], 1)
        )

    def _keep(self, rows: Tensor | slice, values: Tensor, ids: Tensor) -> None:
        """The k largest of some rows; what stands further left has the lower id."""
        best, at = largest(values, min(self._k, values.shape[1]))
        if best.shape[1] != self.values.shape[1]:  # all rows, while there are fewer than k
            self.values, self.ids = best, ids.gather(1, at)
        else:
            self.values[rows], self.ids[rows] = best, ids.gather(1, at)
