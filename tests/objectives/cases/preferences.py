"""Parameters at which the objectives of `entries/preferences.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "dpo": ({}, {"beta": 3.0}),
}
