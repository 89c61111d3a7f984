"""Objectives as a weight for each token and as a loss, two independent routes to the same update.

`names` and `rules` load no torch; `get` and the classes do, on first use.
"""

from __future__ import annotations

from ..lazy import lazy_names
from .rules import check, names

_HOME = {"Objective": "objective", "TokenWeights": "objective", "get": "objective"}

__all__ = ["Objective", "TokenWeights", "check", "get", "names"]
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
