"""Recipes, the instrumented loop and the orchestration of runs.

Names are imported on first use, so that reading a recipe loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module that defines it
_HOME = {
    "PlannedRun": "recipe",
    "Recipe": "recipe",
    "RunConfig": "fields",
    "RunFailedError": "experiment",
    "config_from_dict": "config",
    "config_to_dict": "config",
    "machine_info": "machine",
    "run": "experiment",
    "train": "loop",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
