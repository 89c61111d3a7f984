"""Policies whose every quantity is exact: bandits, log-linear policies and trees."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Bandit": "bandit",
    "LogLinear": "loglinear",
    "Tree": "tree",
    "tree_leaves": "tree",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
