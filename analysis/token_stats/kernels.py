"""The two passes that each back end does over a block of logits, in plain torch operations.

`scan` finds maxima by slabs and counts what lies above a threshold; `sums` exponentiates. Both go through a few rows
at a time, so that every operation after the first finds its operands in cache (three times faster on a CPU).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..laws.softmax import FAR

__all__ = ["SLAB", "EagerKernels", "Kernels", "Scan", "Sums"]

SLAB = 64  # columns whose maximum is taken together
_ROWS = 64  # rows at a time: 64 × 2048 numbers are half a megabyte


class Scan(NamedTuple):
    slab_max: Tensor  # (n, slabs)
    above: Tensor | None  # (n,) how many logits lie above the row's threshold


class Sums(NamedTuple):
    """(n,) each, over all columns but one; t = (z − reference)/T."""

    e0: Tensor  # Σ e^t
    t1: Tensor  # Σ e^t·t
    e2: Tensor  # Σ e^{2t}
    q1: Tensor  # Σ e^{2t}·t


class Kernels(Protocol):
    def scan(self, z: Tensor, threshold: Tensor | None) -> Scan: ...

    def sums(self, z: Tensor, reference: Tensor, leave_out: Tensor, inv_temperature: float, masked: bool) -> Sums: ...


class EagerKernels:
    """torch operations on the device of the logits z (n, C)."""

    def __init__(self) -> None:
        self._first = self._second = torch.empty(0)

    def scan(self, z: Tensor, threshold: Tensor | None) -> Scan:
        """z (n, C), threshold (n,)."""
        n, width = z.shape
        whole = width // SLAB
        slabs = z[:, : whole * SLAB].unflatten(1, (whole, SLAB))
        slab_max = torch.cat([part.amax(-1) for part in slabs.split(_ROWS)])
        if width % SLAB:
            slab_max = torch.cat([slab_max, z[:, whole * SLAB :].amax(-1, keepdim=True)], 1)
        if threshold is None:
            return Scan(slab_max, None)
        above = torch.empty(n, dtype=z.dtype, device=z.device)
        for part, level, out in zip(z.split(_ROWS), threshold[:, None].split(_ROWS), above.split(_ROWS), strict=True):
            flags, _ = self._scratch(part)
            torch.sum(torch.gt(part, level, out=flags), -1, out=out)
        return Scan(slab_max, above)

    def sums(self, z: Tensor, reference: Tensor, leave_out: Tensor, inv_temperature: float, masked: bool) -> Sums:
        """reference (n,) in the units of z, leave_out (n,) a column of each row; `masked`: z may hold −inf."""
        out = torch.empty((4, len(z)), dtype=z.dtype, device=z.device)
        inputs = (z, reference[:, None], leave_out[:, None], *out)
        blocks = zip(*(x.split(_ROWS) for x in inputs), strict=True)
        for part, level, column, e0, t1, e2, q1 in blocks:
            t, e = self._scratch(part)
            torch.sub(part, level, out=t)
            t.scatter_(1, column, -FAR)
            if inv_temperature != 1:
                t.mul_(inv_temperature)
            if masked:
                t.clamp_(min=-FAR)
            torch.exp(t, out=e)
            torch.sum(e, -1, out=e0)
            torch.linalg.vector_norm(e, dim=-1, out=e2)
            torch.sum(t.mul_(e), -1, out=t1)
            torch.sum(t.mul_(e), -1, out=q1)
        out[2].square_()
        return Sums(*out)

    def _scratch(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Two arrays of the shape of `like`, kept while the shape stays."""
        if self._first.shape != like.shape or self._first.dtype != like.dtype or self._first.device != like.device:
            self._first = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            self._second = torch.empty_like(self._first)
        return self._first, self._second
