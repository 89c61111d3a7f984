"""The folder in which things lie that take long to make and can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_home"]


def cache_home() -> Path:
    """`$RLVR_DYNAMICS_CACHE`, by default `~/.cache/rlvr-dynamics`."""
    home = os.environ.get("RLVR_DYNAMICS_CACHE")
    if home:
        return Path(home).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "rlvr-dynamics"
