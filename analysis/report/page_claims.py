"""Verdicts on a page: what `python -m analysis.claims --on RUN --json > RUN/claims.json` left in the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["CLAIMS_FILE", "claims_of"]

CLAIMS_FILE = "claims.json"
_COLUMNS = ("claim", "in_short", "verdict")


def claims_of(folder: Path | None) -> tuple[list[list[str]], list[str]]:
    """The verdicts of a folder.

    Args:
        folder: of an experiment or a run; None for several runs.

    Returns:
        Rows claim, in short, verdict, reason; and notes, where the file cannot be read.
    """
    if folder is None or not (folder / CLAIMS_FILE).exists():
        return [], []
    try:
        data = json.loads((folder / CLAIMS_FILE).read_text(encoding="utf-8"))
        reasons = {entry["id"]: _reason(entry) for entry in data["entries"]}
        rows = [[*(str(row[name]) for name in _COLUMNS), reasons.get(row["claim"], "")] for row in data["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], [
            f"The verdicts in {CLAIMS_FILE} are not shown: expected what `python -m analysis.claims --on RUN --json` "
            f"prints, got {type(error).__name__}: {error}."
        ]
    return rows, []


def _reason(entry: dict[str, Any]) -> str:
    missing = f" What was missing: {entry['missing']}." if entry.get("missing") else ""
    return f"{entry['reason']}{missing}"
