"""Parameters at which the objectives of `entries/regressions.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "kimi-1.5": ({}, {"tau": 2.0, "advantage": "leave_one_out"}),
    "dro": ({}, {"tau": 0.3, "advantage": "constant", "baseline": 0.4}),
    "dro-token": ({}, {"tau": 3.0}),
}
