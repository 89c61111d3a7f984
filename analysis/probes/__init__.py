"""Everything that looks at a live model: `attach`, output heads, contexts followed through updates, JVPs.

Names are imported on first use, so that `RecordSpec` can be read without loading torch.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Attachment": "attachment",
    "ContextProbe": "context_probe",
    "ContextRows": "context_probe",
    "OutputHead": "output_heads",
    "RecordSpec": "record_spec",
    "attach": "attachment",
    "draw_contexts": "context_probe",
    "find_head": "output_heads",
    "jvp_step": "jvp",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
