"""The two passes through torch.compile: each becomes one loop over a row, vectorised by the C++ compiler.

Shapes are marked dynamic, so that a ragged last chunk does not compile again. The first call takes some ten seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..laws.softmax import FAR
from .kernels import SLAB, EagerKernels, Scan, Sums

__all__ = ["CompiledKernels"]


class CompiledKernels:
    """The kernels of `kernels.py` for float32 on the CPU."""

    def __init__(self) -> None:
        self._eager = EagerKernels()

    def scan(self, z: Tensor, threshold: Tensor | None) -> Scan:
        if z.shape[1] % SLAB:
            return self._eager.scan(z, threshold)
        if threshold is None:
            return Scan(_compiled(_slab_maxima)(z), None)
        return Scan(*_compiled(_slab_maxima_and_count)(z, threshold))

    def sums(self, z: Tensor, reference: Tensor, leave_out: Tensor, inv_temperature: float, masked: bool) -> Sums:
        if z.shape[1] % SLAB:
            return self._eager.sums(z, reference, leave_out, inv_temperature, masked)
        return Sums(*_compiled(_residual_sums)(z, reference, leave_out, inv_temperature))


def _slab_maxima(z: Tensor) -> Tensor:
    return z.unflatten(1, (-1, SLAB)).amax(-1)


def _slab_maxima_and_count(z: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    return _slab_maxima(z), (z > threshold[:, None]).to(z.dtype).sum(-1)


def _residual_sums(z: Tensor, reference: Tensor, leave_out: Tensor, inv_t: float) -> tuple[Tensor, ...]:
    t = ((z - reference[:, None]) * inv_t).clamp(min=-FAR)
    columns = torch.arange(z.shape[1], device=z.device)
    e = torch.where(columns != leave_out[:, None], t.exp(), 0.0)
    et = e * t
    return e.sum(-1), et.sum(-1), (e * e).sum(-1), (et * e).sum(-1)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
