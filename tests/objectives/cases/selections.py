"""Parameters at which the objectives of `entries/selections.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "high-entropy": ({}, {"share": 0.01}, {"share": 1.0}),
    "clip-cov": ({"share": 0.2}, {"share": 1.0, "cov_low": -1.0, "cov_high": 2.0}, {}),
    "kl-cov": ({"share": 0.2}, {"share": 1.0, "kappa": 0.3}, {}),
}
