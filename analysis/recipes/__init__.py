"""Recipes: the TOML files, their fields, and the rules for which fields go together. Loads no torch."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "PlannedRun": "recipe",
    "Recipe": "recipe",
    "RunConfig": "fields",
    "config_from_dict": "config",
    "config_to_dict": "config",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
