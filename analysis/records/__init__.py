"""The records of a run: one schema, a writer that survives interruption, readers, and what follows from them.

`docs/records.md` describes the tables. Names are imported on first use, so that command lines can look at run folders
without loading torch or pyarrow.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Experiment": "reader",
    "Run": "reader",
    "RunWriter": "writer",
    "digest": "reader",
    "load_trace": "reader",
    "prediction_summary": "effects",
    "read_experiment": "folders",
    "read_run_json": "folders",
    "shares_summary": "step_shares",
    "update_experiment": "folders",
    "write_experiment": "folders",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
