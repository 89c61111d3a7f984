"""Parameters that several cases share."""

from __future__ import annotations

from typing import Any

CLIPS: tuple[dict[str, Any], ...] = (
    {},
    {"clip_low": 0.2},
    {"clip_high": 0.28},
    {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0},
    {"clip_low": 0.0, "clip_high": 0.0},
    {"clip_low": 1.0},
)
NORMALISED = ({}, {"advantage": "leave_one_out"}, {"advantage": "constant", "baseline": 0.3}, {"advantage": "none"})
