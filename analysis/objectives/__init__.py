"""Objectives as a weight for each token and as a loss, two independent routes to the same update.

`names` and `rules` load no torch; `get` and the classes do, on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from .rules import check, names

_HOME = {"Objective": "objective", "TokenWeights": "objective", "get": "objective"}

__all__ = ["Objective", "TokenWeights", "check", "get", "names"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
