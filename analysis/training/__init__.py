"""Recipes, the instrumented loop and the orchestration of runs.

Names are imported on first use, so that reading a recipe loads no torch.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "PlannedRun": "recipe",
    "Recipe": "recipe",
    "RunConfig": "fields",
    "RunFailedError": "experiment",
    "config_from_dict": "config",
    "config_to_dict": "config",
    "run": "experiment",
    "train": "loop",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
