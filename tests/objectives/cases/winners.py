"""Parameters at which the objectives of `entries/winners.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "raft": ({},),
    "raft-plus-plus": ({}, {"clip_high": 0.0}),
    "wapo": ({}, {"clip_high": 0.2}),
}
