"""Parameters at which the objectives of `entries/regularisers.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "kl-k1": ({}, {"beta": 0.2}),
    "kl-k2": ({}, {"beta": 0.2}),
    "kl-k3": ({}, {"beta": 0.2, "clamp": 10.0}),
    "kl-k1+": ({}, {"beta": 0.2}),
    "kl-k3+": ({}, {"beta": 0.2}),
    "kl-abs": ({}, {"beta": 0.2}),
    "kl-k3-corrected": ({},),
    "entropy-bonus": ({}, {"alpha": 0.1}),
    "kl-full": ({}, {"beta": 0.1}),
}
