"""Parameters at which the objectives of `entries/sequences.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "gspo": ({}, {"clip_low": 0.2, "clip_high": 0.2}, {"clip_low": 1.0}),
    "topr": ({}, {"advantage": "group_mean_std"}, {"reward_values": "zero-one", "advantage": "group_mean"}),
}
