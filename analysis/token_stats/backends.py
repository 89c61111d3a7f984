"""The back ends by name, what each needs, and which is taken where none is named.

The choice depends on the device and the installed packages only, never on sizes or on what was compiled before, so
that the same call gives the same bits.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable

import torch

from ..errors import UsageError, nearest
from ..laws.softmax import TokenStatistics
from .kernels import EagerKernels
from .reference import reference
from .small import SMALL_VOCABULARY, small_vocabulary
from .sources import Source
from .streaming import Request, Tiles, stream

__all__ = ["BACKENDS", "available_backends", "run_backend"]

_CPU_TILES = Tiles(512, 2048)
_CUDA_TILES = Tiles(8192, 4096)


def available_backends(device: torch.device | str = "cpu") -> dict[str, str | None]:
    """Each back end and why it cannot run on `device`; None where it can.

    >>> available_backends()["eager"] is None
    True
    """
    device = torch.device(device)
    return {name: obstacle(device) for name, (_, obstacle) in BACKENDS.items()}


def run_backend(name: str, source: Source, request: Request) -> TokenStatistics:
    """Statistics by the named back end, or by the one for the source's device where `name` is "auto"."""
    if name == "auto":
        name = _automatic(source.device, source.dtype)
    elif name not in BACKENDS:
        raise UsageError(f"backend: expected auto or one of {', '.join(BACKENDS)}, got {name!r}; {_hint(name)}")
    run, obstacle = BACKENDS[name]
    reason = obstacle(source.device)
    if reason is not None:
        raise UsageError(f"backend: {name!r} cannot run here: {reason}; leave it out, or take backend=\"eager\"")
    return run(source, request)


def _automatic(device: torch.device, dtype: torch.dtype) -> str:
    return "eager"


def _hint(name: str) -> str:
    return nearest(name, ["auto", *BACKENDS])


def _eager(source: Source, request: Request) -> TokenStatistics:
    if source.vocab <= SMALL_VOCABULARY:
        return small_vocabulary(source, request)
    return stream(source, request, EagerKernels(), _tiles(source))


def _compiled(source: Source, request: Request) -> TokenStatistics:
    from .compiled import CompiledKernels

    return stream(source, request, CompiledKernels(), _tiles(source))


def _tiles(source: Source) -> Tiles:
    return _CUDA_TILES if source.device.type == "cuda" else _CPU_TILES


def _nothing(device: torch.device) -> str | None:
    return None


@functools.cache
def _no_compiler(device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"it is for the CPU, the tensors are on {device}"
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return "torch.compile needs a C++ compiler (g++ or clang++) and finds none on the PATH"
    return None


# name -> how it runs, what stands in its way on a device
BACKENDS: dict[
    str, tuple[Callable[[Source, Request], TokenStatistics], Callable[[torch.device], str | None]]
] = {
    "reference": (reference, _nothing),
    "eager": (_eager, _nothing),
    "compiled": (_compiled, _no_compiler),
}
