"""Parameters at which the objectives of `entries/preferences.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "dpo": ({}, {"beta": 3.0}),
    "kto": ({}, {"beta": 2.0, "desirable_weight": 1.3, "undesirable_weight": 0.4}),
    "apo-zero-unpaired": ({}, {"beta": 2.0, "desirable_weight": 0.0}),
    "orpo": ({}, {"beta": 3.0}),
}
