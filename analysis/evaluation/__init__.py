"""Exact and estimated Pass@k, a policy evaluated on prompts, intervals, and runs compared at matched points.

Each name is imported from its module on first use: Pass@k, intervals and matching need numpy and pandas only, and do
not load torch.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "K_GRID": "passk",
    "pass_at_k": "passk",
    "pass_at_k_exact": "passk",
    "effective_solutions": "enumeration",
    "solution_log_probs": "enumeration",
    "success_probability": "enumeration",
    "FixedPrefixes": "eval_rows",
    "evaluate": "eval_rows",
    "Interval": "intervals",
    "interval": "intervals",
    "Law": "sampling_params",
    "EmptyRangeError": "matching",
    "Matched": "matching",
    "matched": "matching",
    "METRICS": "metrics",
    "get_metric": "metrics",
    "curves": "metrics",
    "final": "metrics",
    "Crossing": "crossings",
    "crossing": "crossings",
    "crossing_by_task": "crossings",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
