"""The back ends by name, what each needs, and which one runs where none is named.

The choice depends on the device and the installed packages only, never on sizes, so that the same call gives the same
bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from toy_models.messages import nearest

from ..errors import UsageError
from ..laws.softmax import TokenStatistics
from .float64_reference import reference
from .kernels import EagerKernels
from .native import NativeKernels, find_compiler
from .small_vocabulary import SMALL_VOCABULARY, small_vocabulary
from .sources import Source, compute_dtype
from .streaming import Request, Tiles, stream

__all__ = ["BACKENDS", "available_backends", "run_backend"]

_CPU_TILES = Tiles(512, 4096)
_CUDA_TILES = Tiles(8192, 4096)


def available_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """Each back end, and why it cannot run for input of `dtype` on `device`.

    Args:
        device: where the tensors are.
        dtype: of the input; half precision is computed in float32.

    Returns:
        For each name of `BACKENDS` the reason in words, or None where it can run.

    >>> available_backends()["eager"] is None
    True
    """
    device, dtype = torch.device(device), compute_dtype(dtype)
    return {name: obstacle(device, dtype) for name, (_, obstacle) in BACKENDS.items()}


def run_backend(name: str, source: Source, request: Request) -> TokenStatistics:
    """Statistics by the named back end, or by the one for the source's device where `name` is "auto"."""
    if name == "auto":
        name = _automatic(source.device, source.dtype)
    elif name not in BACKENDS:
        raise UsageError(f"backend: expected auto or one of {', '.join(BACKENDS)}, got {name!r}; {_hint(name)}")
    run, obstacle = BACKENDS[name]
    reason = obstacle(source.device, source.dtype)
    if reason is not None:
        raise UsageError(f'backend: {name!r} cannot run here: {reason}; leave it out, or choose backend="eager"')
    return run(source, request)


def _automatic(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda" and _no_triton(device, dtype) is None:
        return "triton"
    return "eager"


def _hint(name: str) -> str:
    return nearest(name, ["auto", *BACKENDS])


def _eager(source: Source, request: Request) -> TokenStatistics:
    if source.vocab <= SMALL_VOCABULARY:
        return small_vocabulary(source, request)
    return stream(source, request, EagerKernels(), _tiles(source))


def _native(source: Source, request: Request) -> TokenStatistics:
    return stream(source, request, NativeKernels(), _tiles(source))


def _triton(source: Source, request: Request) -> TokenStatistics:
    from .triton_kernels import TritonKernels

    return stream(source, request, TritonKernels(), _tiles(source))


def _tiles(source: Source) -> Tiles:
    return _CUDA_TILES if source.device.type == "cuda" else _CPU_TILES


def _nothing(device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def _no_c_compiler(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"it computes in float32, the input is {dtype}"
    if device.type != "cpu":
        return f"it is for the CPU, the tensors are on {device}"
    if find_compiler() is None:
        return "it is built with a C compiler (gcc, clang or cc), and there is none on the PATH"
    return None


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"it computes in float32, the input is {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (a CUDA build of torch brings it)"
    from triton import knobs

    if device.type != "cuda" and not knobs.runtime.interpret:
        return f"it needs a CUDA device, the tensors are on {device} (TRITON_INTERPRET=1 checks it on a CPU, slowly)"
    return None


# name -> the function that runs it, and why it cannot run on a device (None where it can)
BACKENDS: dict[
    str, tuple[Callable[[Source, Request], TokenStatistics], Callable[[torch.device, torch.dtype], str | None]]
] = {
    "reference": (reference, _nothing),
    "eager": (_eager, _nothing),
    "native": (_native, _no_c_compiler),
    "triton": (_triton, _no_triton),
}
