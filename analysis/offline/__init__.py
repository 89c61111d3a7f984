"""Recorded rollouts of any Hugging Face model, traced without training: the same run folder, the weights assumed.

A file of prompts, responses and rewards goes through the model once; what is recorded of each response token is what
the training loop records, and what named objectives would do to it follows on reading. Names are imported on first use,
so that the command line prints its help and refuses bad files without loading torch.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "COLUMNS": "columns",
    "Rollout": "reading",
    "TraceSettings": "trace_settings",
    "read_rollouts": "reading",
    "trace_rollouts": "tracing",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
