"""Parameters at which the objectives of `entries/divergences.py` are checked."""

from __future__ import annotations

from typing import Any

_BOUNDS: tuple[dict[str, Any], ...] = (
    {},
    {"divergence_low": 0.01, "divergence_high": 0.05},
    {"divergence_low": 0.0, "divergence_high": 0.0},
)

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "dppo-tv": (*_BOUNDS, {"ratio_cap": 3.0}, {"ratio_cap": 1.0, "advantage": "none"}),
    "dppo-kl": (*_BOUNDS, {"ratio_cap": 3.0}),
    "dppo-prime": (*_BOUNDS, {"drift_coef": 0.0}, {"drift_coef": 0.7}),
    "ipo-prime": ({}, {"divergence": 0.01}, {"drift_coef": 0.5}),
}
