"""Objectives as a weight for each token and as a loss, two independent routes to the same update.

`names`, `entry` and `check` load no torch; `get` and the classes do, on first use. `python -m analysis.objectives`
prints them all.
"""

from __future__ import annotations

from ..lazy import lazy_names
from .entries import Entry
from .rules import check, entry, names

_HOME = {
    "Analysis": "scalar_form",
    "Example": "scalar_form",
    "Objective": "objective",
    "TokenBatch": "token_batch",
    "TokenWeights": "token_batch",
    "accuracy_of": "token_batch",
    "analyze": "scalar_form",
    "get": "objective",
    "objective_text": "spelling",
    "parse_objective": "spelling",
    "register": "user_losses",
}

__all__ = [
    "Analysis",
    "Entry",
    "Example",
    "Objective",
    "TokenBatch",
    "TokenWeights",
    "accuracy_of",
    "analyze",
    "check",
    "entry",
    "get",
    "names",
    "objective_text",
    "parse_objective",
    "register",
]
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
