"""Recorded rollouts from a JSON Lines or Parquet file, or from rows in memory, checked row by row.

A row that cannot be used is an error that names it; with `skip_bad` such rows are left out and counted by their reason.
Reading loads neither torch nor a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toy_models.table_files import Row, column_value, raw_rows

from ..errors import UsageError
from .columns import find_columns

__all__ = ["BadRows", "Rollout", "RolloutFile", "read_rollouts"]

SKIP = "; skip_bad (--skip-bad) leaves such rows out and counts them"
_EXAMPLES = 3
_FLOAT32_MAX = 3.4e38


@dataclass(frozen=True)
class Rollout:
    """One row as it stands, its values checked for their type; `index` is its place among the rows that can be read."""

    index: int
    where: str
    step: int
    group: Any  # whatever tells groups apart; None without such a column
    prompt: Any  # text or chat messages; None where only token ids are there
    response: str | None
    prompt_ids: tuple[int, ...] | None
    response_ids: tuple[int, ...] | None
    reward: float | None
    advantage: float | tuple[float, ...] | None
    old_log_probs: tuple[float, ...] | None
    answer: str | None
    tools: Any = None  # JSON schemas for the chat template
    template_arguments: Mapping[str, Any] | None = None  # its variables


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
    """

    source: str
    path: Path | None
    sha256: str
    columns: dict[str, str]
    rollouts: list[Rollout]
    bad: BadRows


def read_rollouts(
    source: str | Path | Sequence[Mapping[str, Any]] | Any,
    *,
    columns: Mapping[str, str] | None = None,
    with_answers: bool = False,
    skip_bad: bool = False,
) -> RolloutFile:
    """The rollouts of a file, of a list of dicts or of a data frame.

    Args:
        source: A JSON Lines or Parquet file, a list of dicts, or a data frame.
        columns: Role -> column, for columns of other names than the known ones.
        with_answers: A verifier judges, so the answers are read, and rewards are not.
        skip_bad: Leave rows out that cannot be used, and count them, instead of refusing the first.

    Raises:
        UsageError: A file that cannot be read, columns as in `find_columns`, rewards of which some are numbers and
            some truth values, a file without rows, and (without `skip_bad`) a row that cannot be used.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    name = "rollouts" if path is None else path.name
    bad = BadRows(skip_bad)
    if path is not None:
        try:
            raw = raw_rows(path, bad)
        except ValueError as error:
            raise UsageError(f"rollouts: {_without_prefix(error)}") from error
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        given: Any = source
        records = given.to_dict("records") if hasattr(given, "to_dict") else given
        plain = [
            {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}
            for row in records
        ]  # of a data frame, whose lists are arrays
        raw = [(f"rollout {i}", row) for i, row in enumerate(plain)]
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
    if not raw:
        broken = f" that can be read ({len(bad)} are broken)" if len(bad) else ""
        raise UsageError(f"rollouts: {name} has no rows{broken}")
    found = find_columns([row for _, row in raw], columns or {}, name)
    if with_answers and "answer" not in found:
        raise UsageError(
            f"answer: {name} has no column of answers for the verifier (known names: answer, gts); map "
            "one with columns answer=NAME (--answers NAME)"
        )
    rollouts = []
    kinds: dict[str, str] = {}
    for index, (where, row) in enumerate(raw):
        try:
            rollout = _rollout(index, where, row, found, with_answers=with_answers)
            if rollout.reward is not None:
                kinds.setdefault(type(column_value(row, found["reward"], where)).__name__, where)
        except ValueError as error:
            bad(error, "unusable value")
            continue
        rollouts.append(rollout)
    _check_kinds(kinds, found)
    if not rollouts:
        raise UsageError(f"rollouts: {name} has no row that can be used; the first: {bad.examples[0]}")
    return RolloutFile(name, path, digest, found, rollouts, bad)


def _without_prefix(error: ValueError) -> str:
    return str(error).removeprefix("rollouts: ")


def _rollout(
    index: int, where: str, row: Mapping[str, Any], columns: Mapping[str, str], *, with_answers: bool
) -> Rollout:
    def advantage(value: Any, at: str) -> float | tuple[float, ...]:
        return _floats(value, at) if isinstance(value, list) else _number(value, at)

    def of(role: str, check: Callable[[Any, str], Any]) -> Any:
        if role not in columns:
            return None
        return check(column_value(row, columns[role], where), f"{where}, {columns[role]!r}")

    step = of("step", _integer)
    response_ids = of("response_ids", _ids)
    return Rollout(
        index=index,
        where=where,
        step=0 if step is None else step,
        group=of("group", _label),
        prompt=of("prompt", lambda value, _: value),
        response=of("response", _response),
        prompt_ids=of("prompt_ids", _ids),
        response_ids=response_ids,
        reward=None if with_answers else of("reward", _number),
        advantage=of("advantage", advantage),
        old_log_probs=of("old_log_probs", _floats),
        answer=of("answer", lambda value, _: Row(where, {"": value}).text("")) if with_answers else None,
        tools=row.get(columns.get("tools", "")),
        template_arguments=_arguments(row.get(columns.get("template_arguments", "")), where),
    )


def _response(value: Any, at: str) -> str:
    """A string, or chat messages of which there is one, the assistant's."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    elif isinstance(value, list):
        raise ValueError(
            f"{at}: expected a string or one message of the assistant, got {len(value)} messages; give "
            "the token ids of such a response (response_ids)"
        )
    if not isinstance(value, str):
        raise ValueError(f"{at}: expected a string or one message of the assistant, got {_shown(value)}")
    if not value:
        raise ValueError(f"{at}: the response is empty")
    return value


def _arguments(value: Any, where: str) -> Mapping[str, Any] | None:
    """Variables of a chat template, as an object or as its JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"{where}: expected the variables of the chat template as an object, got {_shown(value)}"
            ) from error
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected the variables of the chat template as an object, got {_shown(value)}")
    return value


def _number(value: Any, at: str) -> float:
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{at}: expected a number or true or false, got {_shown(value)}")
    if not abs(value) < _FLOAT32_MAX:
        raise ValueError(f"{at}: expected a finite number, got {value}")
    return float(value)


def _integer(value: Any, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{at}: expected a whole number from 0, got {_shown(value)}")
    return value


def _label(value: Any, at: str) -> Any:
    if not isinstance(value, str | int):
        raise ValueError(f"{at}: expected a number or a string, the same in all rows of a group, got {_shown(value)}")
    return value


def _ids(value: Any, at: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise ValueError(f"{at}: expected a list of token ids, got {_shown(value)}")
    if not value:
        raise ValueError(f"{at}: expected at least one token id, got none")
    return tuple(value)


def _floats(value: Any, at: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        raise ValueError(f"{at}: expected a list of finite numbers, one for each response token, got {_shown(value)}")
    return tuple(map(float, value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " …"


def _check_kinds(kinds: Mapping[str, str], columns: Mapping[str, str]) -> None:
    """Rewards of one type: a truth value among numbers is rather a mistake than a 1."""
    if "bool" in kinds and len(kinds) > 1:
        other = next(kind for kind in kinds if kind != "bool")
        raise UsageError(
            f"rollouts: the rewards ({columns['reward']!r}) are of mixed types: a truth value in "
            f"{kinds['bool']}, a number in {kinds[other]}; make them all numbers or all true and false"
        )
