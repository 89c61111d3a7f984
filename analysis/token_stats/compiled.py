"""The two passes over a block of logits through torch.compile, each one loop over a row in vectorised C++.

The first call of a process takes some ten seconds; shapes are marked dynamic, so that others do not compile again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .kernels import SLAB, EagerKernels
from .partial_sums import NEGLIGIBLE

__all__ = ["CompiledKernels"]

# Rows at a time: fewer, and the call of a compiled function costs more than its work.
_ROWS = 128


class CompiledKernels(EagerKernels):
    """The kernels of `kernels.py` for float32 on the CPU."""

    def _scan(self, z: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if z.shape[1] % SLAB:  # the end of the vocabulary
            return super()._scan(z, threshold)
        if threshold is None:
            maxima = _compiled(_slab_maxima)
            return torch.cat([maxima(part) for part in z.split(_ROWS)]), None
        scan = _compiled(_slab_maxima_and_count)
        parts = [scan(part, level) for part, level in zip(z.split(_ROWS), threshold.split(_ROWS), strict=True)]
        slab_max, above = (torch.cat(column) for column in zip(*parts, strict=True))
        return slab_max, above

    def _sums(
        self, z: Tensor, peak: Tensor, column: Tensor, runner_up: Tensor, inv_temperature: float
    ) -> Sequence[Tensor]:
        residual = _compiled(_residual_sums)
        parts = [
            residual(part, level, inv_temperature)
            for part, level in zip(z.split(_ROWS), runner_up.split(_ROWS), strict=True)
        ]
        e0, t1, e2, q1 = (torch.cat(sums) for sums in zip(*parts, strict=True))
        # All above the runner-up is left out, which is the peak; where both are equal both were added, 1 each.
        twice = (peak == runner_up).to(z.dtype)
        return e0 - twice, t1, e2 - twice, q1


def _slab_maxima(z: Tensor) -> Tensor:
    return z.unflatten(1, (-1, SLAB)).amax(-1)


def _slab_maxima_and_count(z: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    return _slab_maxima(z), (z > threshold[:, None]).to(z.dtype).sum(-1)


def _residual_sums(z: Tensor, reference: Tensor, inv_t: float) -> tuple[Tensor, ...]:
    t = ((z - reference[:, None]) * inv_t).clamp(min=NEGLIGIBLE)
    e = torch.where(t > 0, 0.0, t.exp())
    et = e * t
    return e.sum(-1), et.sum(-1), (e * e).sum(-1), (et * e).sum(-1)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
