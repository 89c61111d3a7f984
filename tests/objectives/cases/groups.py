"""Parameters at which the objectives of `entries/groups.py` are checked."""

from __future__ import annotations

from typing import Any

from .shared import CLIPS

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "grpo": (*CLIPS, {"form": "probability", "clip_low": 0.2}, {"form": "log"}),
    "dr-grpo": ({}, {"form": "log"}),
    "rloo": ({}, {"form": "ratio", "clip_high": 0.2}),
    "asymre-group": ({}, {"baseline_offset": 0.2}),
    "rewarding-unlikely-paper": ({}, {"rank_penalty": 1.0}),
    "oreal-released": ({}, {"positive_weight": 0.3, "negative_weight": 2.0}),
    "asymre": ({"baseline": 0.4}, {"baseline": -1.0}),
    "rewarding-unlikely": ({}, {"rank_penalty": 1.0}),
    "oreal": ({}, {"positive_weight": 0.3, "negative_weight": 2.0}),
}
