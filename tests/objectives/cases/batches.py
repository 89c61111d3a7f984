"""Parameters at which the objectives of `entries/batches.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "reinforce-plus-plus": ({}, {"whiten": "responses", "clip_high": 0.28, "dual_clip": 3.0}),
    "reinforce-plus-plus-baseline": ({}, {"whiten": "none"}),
    "gdpo": ({}, {"whiten": "tokens"}),
}
