"""Parameters at which the objectives of `entries/group_baselines.py` are checked."""

from __future__ import annotations

from typing import Any

from .shared import CLIPS

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "maxrl": ({}, *({"form": "ratio", **clip} for clip in CLIPS)),
    "qae": (
        {},
        {"quantile": 0.75, "interpolation": "linear"},
        {"divide_by": "none", "clip_low": 0.0, "clip_high": 0.1},
    ),
    "opo": ({}, {"form": "ratio", "clip_low": 0.2}, {"form": "probability"}),
    "remax": ({}, {"form": "ratio", "clip_high": 0.2}),
    "optimal-token-baseline": ({}, {"form": "log"}, {"clip_low": 0.2, "clip_high": 0.2}),
    "gpg": ({}, {"rescaling": "successes"}),
    "pass-at-k": ({"k": 2}, {"k": 1, "form": "log"}, {"k": 2, "clip_low": 0.2, "clip_high": 0.2}),
    "pass-at-k-full": ({"k": 1}, {"k": 2, "clip_low": 0.2, "clip_high": 0.2}),
    "pass-at-k-best": ({}, {"divide_by": "none", "form": "log"}),
}
