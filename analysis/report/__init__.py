"""What an experiment shows: tables of its methods at matched points, figures, and the page that holds both.

Each name is imported from its module on first use, so that `--help` loads no plotting library.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Summary": "summary",
    "summarize": "summary",
    "token_picture": "contexts",
    "write_figures": "figures",
    "write_page": "figures",
    "save_figure": "figures",
    "noise_dynamics_figure": "noise",
    "noise_figure": "noise",
    "dynamics_figure": "compose",
    "mass_flow_figure": "compose",
    "pass_at_k_figure": "compose",
    "prediction_figure": "compose",
    "token_figure": "compose",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
