"""The files that a path of rollouts stands for: itself, or those of a folder, which all have one layout.

A folder stands for the files in it. Where it has none, it stands for those that trainers write into a folder for each
step: `step_3/rank_0.jsonl` (the token exports of prime-rl), `step_3/train/effective/traces.jsonl` (its rollouts that
were trained on). Names are in natural order, so that step 2 comes before step 10. Hidden files, empty ones (the marks
`STABLE` and `_SUCCESS`) and annotations that were written beside others do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from toy_models.table_files import column_names
from toy_models.table_formats import Place

from ..errors import UsageError
from .layouts import recognise
from .trl_tables import tables_of_folder

__all__ = ["ANNOTATIONS", "check_one_layout", "files_of"]

ANNOTATIONS = ".annotations"  # in the names of files that hold what was computed of others
_STEPS = ("step_*/*", "step_*/train/effective/traces.jsonl")
_SAVED_DATASET = ("dataset_info.json", "dataset_dict.json", "state.json")

Raw = Sequence[tuple[Place, Mapping[str, Any]]]


def files_of(path: Path) -> list[tuple[Path, str]]:
    """The files to read and what messages call each; a folder that stands for none is itself given."""
    if not path.is_dir():
        return [(path, path.name)]
    if tables := tables_of_folder(path):
        return [(table, table.name) for table in tables]
    if any((path / name).exists() for name in _SAVED_DATASET):
        return [(path, path.name)]
    for pattern in ("*", *_STEPS):
        if found := [file for file in path.glob(pattern) if _counts(file)]:
            names = {str(file.relative_to(path)): file for file in found}
            return [(names[name], name) for name in sorted(names, key=_natural)]
    return [(path, path.name)]


def check_one_layout(raw: Raw, given: Mapping[str, Any]) -> None:
    """UsageError where files of a folder have different layouts, which would be read under the names of one."""
    first: tuple[str, str] | None = None
    for file, rows in groupby(raw, key=lambda entry: entry[0].file):
        names = dict.fromkeys(name for _, row in rows for name in (*row, *column_names(row)))
        layout = recognise(list(names), dict(given))
        kind = layout.name if layout is not None else "a table with columns of the known names"
        if first is not None and kind != first[1]:
            raise UsageError(
                f"rollouts: expected a folder of files of one layout, got {first[0]} ({first[1]}) and {file} ({kind}); "
                "trace them one by one, or name the layout of all with format (--format)"
            )
        first = first or (file, kind)


def _counts(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and ANNOTATIONS not in file.name and file.stat().st_size > 0


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Numbers within a name count as numbers.

    >>> sorted(["step_10/a", "step_2/a"], key=_natural)
    ['step_2/a', 'step_10/a']
    """
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]
