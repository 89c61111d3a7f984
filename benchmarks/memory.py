"""The memory that a call takes over what the process held before, from /proc of Linux."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["CAN_MEASURE", "peak_over"]

T = TypeVar("T")
CAN_MEASURE = Path("/proc/self/clear_refs").exists()


def peak_over(call: Callable[[], T]) -> tuple[T, int]:
    """What the call returns, and the peak of the resident set in bytes over what was held before it."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    result = call()
    return result, _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
