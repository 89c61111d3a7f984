"""Exact and estimated Pass@k, a policy evaluated on prompts, intervals, and runs compared at matched points.

Each name is imported from its module on first use: Pass@k, intervals and matching need numpy and pandas only, and do
not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module that defines it
_HOME = {
    "K_GRID": "passk",
    "pass_at_k": "passk",
    "pass_at_k_exact": "passk",
    "effective_solutions": "enumeration",
    "solution_log_probs": "enumeration",
    "success_probability": "enumeration",
    "FixedPrefixes": "policy",
    "evaluate": "policy",
    "Interval": "intervals",
    "interval": "intervals",
    "EmptyRangeError": "matching",
    "Matched": "matching",
    "matched": "matching",
    "METRICS": "metrics",
    "curves": "metrics",
    "final": "metrics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
