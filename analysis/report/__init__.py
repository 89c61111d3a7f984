"""What an experiment shows: tables of its methods at matched points, figures, and the page that holds both.

Each name is imported from its module on first use, so that `--help` loads no plotting library.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module that defines it
_HOME = {
    "Summary": "summary",
    "summarize": "summary",
    "token_picture": "contexts",
    "write_figures": "figures",
    "dynamics_figure": "compose",
    "mass_flow_figure": "compose",
    "pass_at_k_figure": "compose",
    "token_figure": "compose",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
