"""Pictures of records: pure functions `plots.<name>(ax, data)` over data frames, in one seaborn style.

They neither train nor read files nor touch pyplot's state; `analysis.report` puts them together into figures. Each
name is imported from its module on first use, so that listing them loads no plotting library.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module that defines it
_HOME = {
    "BASE": "appearance",
    "COLUMN_INCHES": "appearance",
    "PAGE_INCHES": "appearance",
    "caption": "appearance",
    "heading": "appearance",
    "legend": "appearance",
    "look": "appearance",
    "style": "appearance",
    "curve": "lines",
    "path": "lines",
    "pass_at_k": "passk",
    "pass_at_k_difference": "passk",
    "logit_arrows": "tokens",
    "token_bars": "tokens",
    "bucket_flow": "flows",
    "realised_and_jvp": "flows",
    "law_agreement": "flows",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
