"""The committed results docs/results/*.json: what was measured, with the command, the versions and the machine.

Pages are rendered from these files alone, so that a page can be checked where nothing is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.common.provenance import measured_with

__all__ = ["FOLDER", "merge", "read", "write"]

FOLDER = Path(__file__).parents[1] / "results"


def read(name: str) -> dict[str, Any]:
    """The data of a committed result."""
    stored: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return stored


def write(name: str, command: str, data: Mapping[str, Any]) -> Path:
    """Write a result: `data` beside the command that makes it, the date, the versions and the processor."""
    return _store(name, measured_with(command) | dict(data))


def merge(name: str, part: str, entries: Mapping[str, Any]) -> Path:
    """Put entries into a part of a result and keep the others; each says for itself with what it was measured."""
    stored = read(name) if (FOLDER / f"{name}.json").exists() else {}
    stored[part] = dict(sorted((stored.get(part, {}) | dict(entries)).items()))
    return _store(name, stored)


def _store(name: str, stored: Mapping[str, Any]) -> Path:
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path
