"""Many runs: an experiment, its pool of worker processes and its progress. Loads no torch."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "RunFailedError": "experiment",
    "run": "experiment",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
