"""What an experiment shows: tables of its methods at matched points, figures, and the page that holds both.

Each name is imported from its module on first use, so that `--help` loads no plotting library.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Summary": "summary",
    "summarize": "summary",
    "summarize_trace": "offline_summary",
    "TraceData": "offline_data",
    "write_trace_figures": "offline_figures",
    "token_picture": "token_pictures",
    "write_figures": "figure_files",
    "write_page": "figure_files",
    "save_figure": "figure_files",
    "noise_dynamics_figure": "noise_figures",
    "noise_figure": "noise_figures",
    "boundaries_figure": "offline_figures",
    "gradient_tokens_figure": "offline_figures",
    "positions_figure": "offline_figures",
    "rank_flow_figure": "offline_figures",
    "dynamics_figure": "figures",
    "mass_flow_figure": "figures",
    "pass_at_k_figure": "figures",
    "prediction_figure": "figures",
    "token_figure": "figures",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
