"""The results of `make bench`, read from the JSON of pytest-benchmark.

benchmarks/conftest.py puts into that file with what it was measured. Of each benchmark only the median of its rounds is
kept, and what it says of itself in `extra_info`: ratios, sizes and counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.errors import UsageError

__all__ = ["MADE", "benchmarks"]

MADE = "made"  # the key under which the file says with what it was measured


def benchmarks(path: Path) -> dict[str, dict[str, Any]]:
    """By name of the test: with what it was measured, its median seconds and its extra information.

    Raises:
        UsageError: a file that is not there, or that benchmarks/conftest.py has not completed.
    """
    if not path.is_file():
        raise UsageError(f"benchmarks: expected the file that `make bench` writes, got {path}, which is not there")
    measured = json.loads(path.read_text(encoding="utf-8"))
    if MADE not in measured:
        raise UsageError(f"benchmarks: expected a file with the key {MADE!r}, got {path}; write it with `make bench`")
    return {
        _name(entry["fullname"]): measured[MADE]
        | {"seconds": entry["stats"]["median"]}
        | {"extra": entry["extra_info"]}
        for entry in measured["benchmarks"]
    }


def _name(fullname: str) -> str:
    """`attach::test_overhead[…]` for benchmarks/test_attach.py::test_overhead[…]."""
    file, _, test = fullname.partition("::")
    return f"{Path(file).stem.removeprefix('test_')}: {test.removeprefix('test_')}"
