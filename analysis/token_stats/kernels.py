"""What each back end does with a block of logits, and how plain torch operations do it.

For every row: maxima by slab, how many logits lie above the row's threshold, the largest logit, its column and the
runner-up, and the residual sums of all but the largest relative to the runner-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .partial_sums import NEGLIGIBLE, VOID

__all__ = ["SLAB", "Chunk", "EagerKernels", "Kernels", "exceeding", "slabs_of"]

SLAB = 64  # columns whose maximum is taken together
# Rows that go through the passes at a time, so that all after the first find their operands in cache (three times
# faster on a CPU): 32 × 4096 numbers are half a megabyte.
_ROWS = 32


class Chunk(NamedTuple):
    """Of a block of logits (n, C); (n,) unless said otherwise. t = (z − runner_up)/T."""

    slab_max: Tensor  # (n, ⌈C/SLAB⌉)
    above: Tensor | None  # how many logits lie above the threshold, where there is one
    peak: Tensor  # the largest logit
    column: Tensor  # where it stands, the lower of equal ones
    runner_up: Tensor  # the largest of the others, VOID where all of them are masked
    e0: Tensor  # Σ e^t, here and below over all columns but that of the peak
    t1: Tensor  # Σ e^t·t
    e2: Tensor  # Σ e^{2t}
    q1: Tensor  # Σ e^{2t}·t


class Kernels(Protocol):
    def chunk(self, z: Tensor, threshold: Tensor | None, inv_temperature: float) -> Chunk:
        """z (n, C) is left as it is, −inf a masked token; threshold (n,)."""

    def exceeding(self, z: Tensor, slab_max: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `exceeding` below."""


class EagerKernels:
    """torch operations on the device of the logits."""

    def __init__(self) -> None:
        self._first = self._second = torch.empty(0)

    def chunk(self, z: Tensor, threshold: Tensor | None, inv_temperature: float) -> Chunk:
        slab_max, above = self._scan(z, threshold)
        peak, column, runner_up = _two_largest(z, slab_max)
        sums = self._sums(z, peak, column, runner_up, inv_temperature)
        return Chunk(slab_max, above, peak, column, runner_up, *sums)

    def exceeding(self, z: Tensor, slab_max: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return exceeding(z, slab_max, level)

    def _scan(self, z: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Maxima by slab, and how many logits lie above the threshold."""
        n_full = z.shape[1] // SLAB
        slab_max = torch.empty((len(z), -(-z.shape[1] // SLAB)), dtype=z.dtype, device=z.device)
        above = None if threshold is None else torch.empty(len(z), dtype=z.dtype, device=z.device)
        for start in range(0, len(z), _ROWS):
            rows = slice(start, start + _ROWS)
            part = z[rows]
            torch.amax(part[:, : n_full * SLAB].unflatten(1, (n_full, SLAB)), -1, out=slab_max[rows, :n_full])
            if n_full * SLAB < z.shape[1]:
                torch.amax(part[:, n_full * SLAB :], -1, out=slab_max[rows, n_full])
            if threshold is not None and above is not None:
                flags, _ = self._scratch(part)
                torch.sum(torch.gt(part, threshold[rows, None], out=flags), -1, out=above[rows])
        return slab_max, above

    def _sums(
        self, z: Tensor, peak: Tensor, column: Tensor, runner_up: Tensor, inv_temperature: float
    ) -> Sequence[Tensor]:
        """The residual sums e0, t1, e2, q1."""
        out = torch.empty((4, len(z)), dtype=z.dtype, device=z.device)
        inputs = (z, runner_up[:, None], column[:, None], *out)
        for part, level, left_out, e0, t1, e2, q1 in zip(*(x.split(_ROWS) for x in inputs), strict=True):
            t, e = self._scratch(part)
            torch.sub(part, level, out=t)
            if inv_temperature != 1:
                t.mul_(inv_temperature)
            t.clamp_(min=NEGLIGIBLE).scatter_(1, left_out, NEGLIGIBLE)
            torch.exp(t, out=e)
            torch.sum(e, -1, out=e0)
            torch.linalg.vector_norm(e, dim=-1, out=e2)
            torch.sum(t.mul_(e), -1, out=t1)
            torch.sum(t.mul_(e), -1, out=q1)
        out[2].square_()
        return out.unbind()

    def _scratch(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Two arrays of the shape of `like`, kept while the shape stays."""
        if self._first.shape != like.shape or self._first.dtype != like.dtype or self._first.device != like.device:
            self._first = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            self._second = torch.empty_like(self._first)
        return self._first, self._second


def exceeding(z: Tensor, slab_max: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of z (n, C) above their row's level (n,): rows, columns and values (m,), row by row, columns rising."""
    rows, slabs = torch.nonzero(slab_max > level[:, None], as_tuple=True)
    values = slabs_of(z, rows, slabs)
    which, lane = torch.nonzero(values > level[rows, None], as_tuple=True)
    return rows[which], slabs[which] * SLAB + lane, values[which, lane]


def slabs_of(z: Tensor, rows: Tensor, slabs: Tensor) -> Tensor:
    """Columns [slab·SLAB, (slab + 1)·SLAB) of some rows of z (n, C), (rows, SLAB); −inf beyond the last column."""
    n_full = z.shape[1] // SLAB
    if n_full * SLAB == z.shape[1]:
        return z.unflatten(1, (n_full, SLAB))[rows, slabs]
    values = z.new_full((len(rows), SLAB), float("-inf"))
    inner = torch.nonzero(slabs < n_full).squeeze(1)
    if n_full:
        values[inner] = z[:, : n_full * SLAB].unflatten(1, (n_full, SLAB))[rows[inner], slabs[inner]]
    last = torch.nonzero(slabs == n_full).squeeze(1)
    values[last, : z.shape[1] - n_full * SLAB] = z[rows[last], n_full * SLAB :]
    return values


def _two_largest(z: Tensor, slab_max: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Peak, its column and the runner-up, from the slabs' maxima and the one slab that holds the peak."""
    peak, slab = slab_max.max(1)  # the first of equals
    values = slabs_of(z, torch.arange(len(z), device=z.device), slab)
    lane = values.max(1, keepdim=True).indices  # likewise, and faster than argmax
    rest = values.scatter_(1, lane, float("-inf")).amax(1)
    others = slab_max.scatter(1, slab[:, None], float("-inf")).amax(1)
    return peak, slab * SLAB + lane.squeeze(1), torch.maximum(rest, others).clamp(min=VOID)
