"""Records of a run: one schema, a store that survives interruption, readers, and contexts followed through updates.

`docs/records.md` describes the tables. Names are imported on first use, so that command lines can look at run folders
without loading torch or pyarrow.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "ContextProbe": "contexts",
    "ContextRows": "contexts",
    "Experiment": "reader",
    "OutputHead": "heads",
    "Run": "reader",
    "RunWriter": "store",
    "digest": "reader",
    "draw_contexts": "contexts",
    "find_head": "heads",
    "jvp_step": "jvp",
    "load_trace": "reader",
    "prediction_summary": "derived",
    "read_experiment": "folders",
    "read_run_json": "folders",
    "shares_summary": "shares",
    "update_experiment": "folders",
    "write_experiment": "folders",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
