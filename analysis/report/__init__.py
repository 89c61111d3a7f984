"""What an experiment shows: tables of its methods at matched points, figures, and the page that holds both.

Each name is imported from its module on first use, so that `--help` loads no plotting library.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Summary": "summary",
    "summarize": "summary",
    "summarize_trace": "trace_summary",
    "TraceData": "trace_data",
    "write_trace_figures": "trace_figures",
    "token_picture": "contexts",
    "write_figures": "figures",
    "write_page": "figures",
    "save_figure": "figures",
    "noise_dynamics_figure": "noise",
    "noise_figure": "noise",
    "boundaries_figure": "trace_figures",
    "gradient_tokens_figure": "trace_figures",
    "positions_figure": "trace_figures",
    "rank_flow_figure": "trace_figures",
    "dynamics_figure": "compose",
    "mass_flow_figure": "compose",
    "pass_at_k_figure": "compose",
    "prediction_figure": "compose",
    "token_figure": "compose",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
