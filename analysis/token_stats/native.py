"""The native back end: `kernels.c`, built for this processor with the machine's C compiler, one visit to each row.

The build takes half a second and is made once a process, in a temporary folder. Rows are shared out to as many threads
as torch uses.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .kernels import SLAB, Chunk
from .partial_sums import NEGLIGIBLE, VOID

__all__ = ["NativeKernels", "find_compiler"]

_FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# gcc keeps to half of the widest vectors unless told (an eighth slower here).
_WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()


def find_compiler() -> str | None:
    """Path of the C compiler, or None."""
    return next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None)


class NativeKernels:
    """The kernels of `kernels.py` for float32 on the CPU."""

    def __init__(self) -> None:
        self._chunk, self._exceeding = _library()
        self._threads = torch.get_num_threads()

    def chunk(self, z: Tensor, threshold: Tensor | None, inv_temperature: float) -> Chunk:
        n, width = z.shape
        z = z if z.stride(1) == 1 else z.contiguous()
        slab_max = torch.empty((n, -(-width // SLAB)))
        above = None if threshold is None else torch.empty(n)
        peak, runner_up, sums = torch.empty(n), torch.empty(n), torch.empty((4, n))
        column = torch.empty(n, dtype=torch.int64)

        def run(first: int, last: int) -> None:
            self._chunk(
                _at(z, first),
                last - first,
                width,
                z.stride(0),
                _at(threshold, first),
                inv_temperature,
                NEGLIGIBLE,
                VOID,
                _at(slab_max, first),
                _at(above, first),
                _at(peak, first),
                _at(column, first),
                _at(runner_up, first),
                _at(sums, 0, first),
                n,
            )

        if self._threads == 1:
            run(0, n)
        else:
            share = -(-n // self._threads)
            starts = range(0, n, share)
            list(_pool(self._threads).map(run, starts, [min(start + share, n) for start in starts]))
        return Chunk(slab_max, above, peak, column, runner_up, *sums)

    def exceeding(self, z: Tensor, slab_max: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, level = z if z.stride(1) == 1 else z.contiguous(), level.contiguous()
        inputs = (_at(z), len(z), z.shape[1], z.stride(0), _at(slab_max), _at(level))
        count = self._exceeding(*inputs, None, None, None)
        rows, columns, values = (torch.empty(count, dtype=t) for t in (torch.int64, torch.int64, torch.float32))
        if count:
            self._exceeding(*inputs, _at(rows), _at(columns), _at(values))
        return rows, columns, values


def _at(x: Tensor | None, *index: int) -> int | None:
    """Address of an entry of a tensor."""
    if x is None:
        return None
    return x.data_ptr() + x.element_size() * sum(i * stride for i, stride in zip(index, x.stride(), strict=False))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="token-stats")


@functools.cache
def _library() -> tuple[Callable[..., None], Callable[..., int]]:
    """The compiled functions; raises RuntimeError with the compiler's words where it fails."""
    compiler = find_compiler()
    assert compiler is not None, "a back end is asked for its obstacles before it runs"
    source = Path(__file__).with_name("kernels.c")
    with tempfile.TemporaryDirectory(prefix="token-stats-") as folder:
        built = Path(folder) / "kernels.so"
        command = [compiler, *_FLAGS, *_WIDE, str(source), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{compiler} could not build {source.name}: {done.stderr.strip()[-2000:]}")
        library = ctypes.CDLL(str(built))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.chunk.argtypes = [
        pointer,
        number,
        number,
        number,
        pointer,
        ctypes.c_float,
        ctypes.c_float,
        ctypes.c_float,
        pointer,
        pointer,
        pointer,
        pointer,
        pointer,
        pointer,
        number,
    ]
    library.chunk.restype = None
    library.exceeding.argtypes = [pointer, number, number, number, pointer, pointer, pointer, pointer, pointer]
    library.exceeding.restype = number
    return library.chunk, library.exceeding
