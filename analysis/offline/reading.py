"""Recorded rollouts from a file or from a table in memory, checked row by row.

A row that cannot be used is an error that names it; with `skip_bad` such rows are left out and counted by their reason.
Reading loads neither torch nor a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toy_models.spooled import Mapped, Spooled
from toy_models.table_files import column_value, each_row
from toy_models.table_formats import Place

from ..errors import UsageError
from .columns import COLUMNS, find_columns, responses_in_a_row
from .containers import records_of
from .row_rollouts import Rollout, rollouts_of_row
from .server_outputs import joined_batches
from .source_files import check_one_layout, files_of

__all__ = ["BadRows", "Rollout", "RolloutFile", "read_rollouts"]

SKIP = "; skip_bad (--skip-bad) leaves such rows out and counts them"
_EXAMPLES = 3


@dataclass
class BadRows:
    """Counts rows that cannot be used, or refuses the first one."""

    skip: bool
    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def __call__(self, error: ValueError, reason: str = "broken line") -> None:
        """Count it under `reason`; UsageError with its message unless bad rows are skipped."""
        if not self.skip:
            raise UsageError(f"rollouts: {_without_prefix(error)}{SKIP}") from None
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(str(error))

    def __len__(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class RolloutFile:
    """The rollouts of a file in its order.

    Attributes:
        source: Name of the file, for messages.
        path: The file; None for rows from memory.
        sha256: Of its content.
        columns: Role -> column that the rollouts came from.
        rollouts: The rows that can be used.
        bad: The rows that cannot.
        layout: The layout that was recognised, by its name.
        numbers: Columns of numbers that may be rewards, where no rewards are read.
        notes: What the summary says of how the file was read.
        inexact: Why token ids of its texts may not be those that were trained on; empty where nothing is known.
    """

    source: str
    path: Path | None
    sha256: str
    columns: dict[str, str]
    rollouts: Sequence[Rollout]
    bad: BadRows
    layout: str | None = None
    numbers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inexact: str = ""


def read_rollouts(
    source: str | Path | Sequence[Mapping[str, Any]] | Any,
    *,
    columns: Mapping[str, Any] | None = None,
    with_answers: bool = False,
    skip_bad: bool = False,
    format: str | None = None,
) -> RolloutFile:
    """The rollouts of a file, of a list of dicts, or of a table in memory.

    Args:
        source: A file (JSON Lines, JSON, CSV, Parquet or Arrow, also compressed), a folder of such files of one
            layout, a list of dicts, a dict of lists, a data frame, an Arrow table or a `datasets.Dataset`.
        columns: Role -> column, for columns of other names than the known ones; "-" for a role that has none. The
            reward may be a sum, "2*accuracy + format" or {"accuracy": 2, "format": 1}.
        with_answers: A verifier judges, so the answers are read, and rewards are not.
        skip_bad: Leave rows out that cannot be used, and count them, instead of refusing the first.
        format: The key of a layout (`analysis.offline.layouts.FORMATS`), "plain" for columns by their names alone;
            unset, the columns tell.

    Raises:
        UsageError: A file that cannot be read, columns as in `find_columns`, rewards of which some are numbers and
            some truth values, a file without rows, and (without `skip_bad`) a row that cannot be used.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    name = "rollouts" if path is None else path.name
    bad = BadRows(skip_bad)
    raw: Sequence[tuple[Place, Mapping[str, Any]]]
    if path is not None:
        try:
            parts = files_of(path)
            raw = Spooled(row for part, shown in parts for row in each_row(part, bad, shown))
        except ValueError as error:
            raise UsageError(f"rollouts: {_without_prefix(error)}") from error
        digests = [_file_digest(part) for part, _ in parts]
        digest = digests[0] if len(parts) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    else:
        plain = records_of(source)
        raw = [(Place("", "rollout", i), row) for i, row in enumerate(plain)]
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
    if (joined := joined_batches(Mapped(raw, lambda entry: entry[1]))) is not None:
        raw = Spooled((place, row) for (place, _), row in zip(raw, joined, strict=True) if row is not None)
    if path is not None and len(parts) > 1 and format is None:
        check_one_layout(raw, columns or {})
    if not raw:
        broken = f" that can be read ({len(bad)} are broken)" if len(bad) else ""
        raise UsageError(f"rollouts: {name} has no rows{broken}")
    chosen = find_columns(
        Mapped(raw, lambda entry: entry[1]), columns or {}, name, format, with_rewards=not with_answers
    )
    found = dict(chosen.columns)
    if with_answers and found and "answer" not in found:
        raise UsageError(
            f"answer: {name} has no column of answers for the verifier (known names: {', '.join(COLUMNS['answer'])}); "
            "map one with columns answer=NAME (--answers NAME)"
        )
    rollouts = Spooled[Rollout]()
    kinds: dict[str, str] = {}
    index = 0
    for (source_row, part), row in zip(chosen.places, chosen.rows, strict=True):
        if source_row in chosen.left_out:
            continue
        where = raw[source_row][0].within(part)
        count = 1 if isinstance(row, ValueError) else max(1, responses_in_a_row(row, chosen.columns))
        index += count
        try:
            if isinstance(row, ValueError):
                raise ValueError(f"{where}: {row}")
            made = rollouts_of_row(index - count, where, row, chosen, with_answers=with_answers)
        except ValueError as error:
            bad(error, "unusable value")
            continue
        if "reward" in found and chosen.reward is None and not with_answers:
            kinds.setdefault(type(column_value(row, found["reward"], where)).__name__, where)
        rollouts.extend(made)
    _check_kinds(kinds, found)
    if not rollouts:
        why = f"; the first: {bad.examples[0]}" if bad.examples else f": {' '.join(chosen.notes)}"
        raise UsageError(f"rollouts: {name} has no row that can be used{why}")
    layout = chosen.layout.name if chosen.layout is not None else None
    notes = tuple(chosen.notes)
    return RolloutFile(name, path, digest, found, rollouts, bad, layout, chosen.numbers, notes, chosen.inexact)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_prefix(error: ValueError) -> str:
    return str(error).removeprefix("rollouts: ")


def _check_kinds(kinds: Mapping[str, str], columns: Mapping[str, str]) -> None:
    """Rewards of one type: a truth value among numbers is rather a mistake than a 1."""
    if "bool" in kinds and len(kinds) > 1:
        other = next(kind for kind in kinds if kind != "bool")
        raise UsageError(
            f"rollouts: the rewards ({columns['reward']!r}) are of mixed types: a truth value in "
            f"{kinds['bool']}, a number in {kinds[other]}; make them all numbers or all true and false"
        )
