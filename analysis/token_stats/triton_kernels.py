"""The kernels of `kernels.py` for CUDA in Triton: one program takes a row of a block and reads it once.

Triton's interpreter (TRITON_INTERPRET=1, set before this module is imported) runs the same code on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernels import SLAB, Chunk, exceeding
from .partial_sums import NEGLIGIBLE, VOID

__all__ = ["TritonKernels"]


class TritonKernels:
    """The kernels of `kernels.py` for float32."""

    def chunk(self, z: Tensor, threshold: Tensor | None, inv_temperature: float) -> Chunk:
        n, width = z.shape
        z = z if z.stride(1) == 1 else z.contiguous()
        slabs = triton.cdiv(width, SLAB)
        slab_max = z.new_empty((n, slabs))
        above = None if threshold is None else z.new_empty(n)
        peak, runner_up, sums = z.new_empty(n), z.new_empty(n), z.new_empty((4, n))
        column = torch.empty(n, dtype=torch.int64, device=z.device)
        block = max(triton.next_power_of_2(width), SLAB)
        _chunk[(n,)](
            z,
            z.stride(0),
            width,
            threshold if threshold is not None else z,
            inv_temperature,
            NEGLIGIBLE,
            VOID,
            slab_max,
            slabs,
            above if above is not None else z,
            peak,
            column,
            runner_up,
            sums,
            n,
            COUNT=threshold is not None,
            BLOCK=block,
            WIDTH=SLAB,
            num_warps=8 if block >= 2048 else 4,
        )
        return Chunk(slab_max, above, peak, column, runner_up, *sums)

    def exceeding(self, z: Tensor, slab_max: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return exceeding(z, slab_max, level)


@triton.jit
def _chunk(
    z: Any,
    stride: Any,
    width: Any,
    threshold: Any,
    inv_t: Any,
    negligible: Any,
    floor: Any,
    slab_max: Any,
    slabs: Any,
    above: Any,
    peak: Any,
    column: Any,
    runner_up: Any,
    sums: Any,
    n: Any,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    x = tl.load(z + row * stride + at, mask=at < width, other=float("-inf"))
    slab = tl.arange(0, BLOCK // WIDTH)
    tl.store(slab_max + row * slabs + slab, tl.max(tl.reshape(x, (BLOCK // WIDTH, WIDTH)), 1), mask=slab < slabs)
    if COUNT:
        level = tl.load(threshold + row)
        tl.store(above + row, tl.sum((x > level).to(tl.float32)))

    top = tl.max(x, 0)
    where = tl.argmax(x, 0, tie_break_left=True)
    rest = tl.where(at == where, float("-inf"), x)
    second = tl.maximum(tl.max(rest, 0), floor)
    t = tl.maximum((rest - second) * inv_t, negligible)
    e = tl.where((at == where) | (at >= width), 0.0, tl.exp(t))
    et = e * t
    # The sum of all logits is not finite where one of them is NaN or +inf; maxima may pass over NaN.
    faulty = tl.sum(tl.where(x > float("-inf"), 0.0, tl.where(x != x, x, 0.0)), 0)
    tl.store(peak + row, top + faulty)
    tl.store(column + row, where.to(tl.int64))
    tl.store(runner_up + row, second)
    tl.store(sums + row, tl.sum(e, 0) + faulty)
    tl.store(sums + n + row, tl.sum(et, 0))
    tl.store(sums + 2 * n + row, tl.sum(e * e, 0))
    tl.store(sums + 3 * n + row, tl.sum(et * e, 0))
