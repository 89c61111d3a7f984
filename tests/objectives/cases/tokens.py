"""Parameters at which the objectives of `entries/tokens.py` are checked."""

from __future__ import annotations

from typing import Any

from .shared import CLIPS

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "ppo": (*CLIPS, {"clip_low": 0.1, "clip_high": 0.3}, {"reward_values": "zero-one"}),
    "dapo": ({},),
    "cispo": ({}, {"clip_high": 0.2}, {"clip_low": 0.2, "clip_high": 0.28}, {"clip_low": 1.0}),
    "sapo": ({}, {"tau_pos": 5.0, "tau_neg": 0.2}),
}
