"""The built-in base policies: their recipes, their cache and the programs that make them."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "BASES": "cache",
    "BaseRecipe": "cache",
    "base_is_cached": "cache",
    "ensure_base": "cache",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
