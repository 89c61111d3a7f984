"""Parameters at which the objectives of `entries/rewards.py` are checked."""

from __future__ import annotations

from typing import Any

from .shared import CLIPS, NORMALISED

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "psr-ratio": CLIPS,
    "psr-probability": CLIPS,
    "psr-log": ({}, {"advantage": "group_mean"}),
    "nsr-ratio": CLIPS,
    "nsr-probability": CLIPS,
    "nsr-log": ({}, {"advantage": "batch_mean_std"}),
    "w-reinforce-ratio": tuple({"lambda_": 0.1, **clip} for clip in CLIPS),
    "w-reinforce-probability": tuple({"lambda_": 0.1, **clip} for clip in CLIPS),
    "w-reinforce-log": ({"lambda_": 0.1}, {"lambda_": 0.0}),
    "reinforce-ratio": CLIPS,
    "reinforce-probability": CLIPS,
    "reinforce-log": NORMALISED,
    "psr-released": ({}, {"dual_clip": 3.0}),
    "nsr-released": ({}, {"dual_clip": 3.0}),
    "w-reinforce-released": ({"lambda_": 0.1},),
}
