"""Graded samples from a file: how many were drawn for each prompt, and how many of them are correct.

Either one row is one sample (prompt, correct), or one row is one prompt (prompt, n, c). `correct` is a truth value or 0
and 1, or a list of those for several samples of the prompt; with a threshold it may be any score. Files are read by
`toy_models.table_files`: JSON Lines, JSON, CSV, Parquet and Arrow, compressed or not. Dumps of verl's validation are
read as they are (`verl_samples`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toy_models.messages import nearest
from toy_models.table_files import column_names, column_value, each_row
from toy_models.table_formats import CsvText, Place

from ..errors import UsageError
from ..offline.reward_columns import check_rivals
from .verl_samples import counted_samples

__all__ = ["Graded", "read_graded"]

# role -> known names, the better first where a file has several
_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt_id", "problem_id", "question_id", "task_id", "doc_id", "example_id", "uid", "id"),
        *("prompt", "problem", "question", "input"),
    ),
    "correct": ("correct", "is_correct", "passed", "pass", "exact_match", "acc", "reward", "score"),
    "n": ("n", "n_samples", "num_samples", "samples"),
    "c": ("c", "n_correct", "num_correct"),
}

_REWARDS = ("reward", "score")  # known names of correct, of which neither goes before the other

_MOST = 10**9  # samples of a prompt; C(n, k) loses precision far beyond what anybody draws


@dataclass(frozen=True)
class Graded:
    """Samples of a checkpoint, counted by prompt.

    Attributes:
        name: of the checkpoint, by default that of the file.
        prompts: what tells prompts apart, in the order of the file.
        n: (prompts,) samples drawn.
        c: (prompts,) correct among them.
        notes: how the file was read, where that may not be what was meant.
    """

    name: str
    prompts: tuple[str, ...]
    n: np.ndarray
    c: np.ndarray
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Graded({self.name!r}, {len(self.prompts)} prompts, {self.n.sum()} samples, {self.c.sum()} correct)"

    def select(self, prompts: Sequence[str]) -> Graded:
        """These prompts alone, in this order."""
        places = {prompt: place for place, prompt in enumerate(self.prompts)}
        chosen = [places[prompt] for prompt in prompts]
        return replace(self, prompts=tuple(prompts), n=self.n[chosen], c=self.c[chosen])


def read_graded(
    path: str | Path, *, columns: Mapping[str, str] | None = None, above: float | None = None, name: str | None = None
) -> Graded:
    """The graded samples of a file.

    Args:
        path: the file.
        columns: role (prompt, correct, n, c) -> column, for columns of other names than the known ones; `a.b` is the
            entry b of the objects in column a.
        above: a sample is correct where its score is greater than this; unset: scores must be 0 or 1.
        name: of the checkpoint; unset: that of the file.

    Raises:
        UsageError: a file that cannot be read or has no rows, missing columns, `reward` and `score` that differ without
            a better column, a score that is neither 0 nor 1 without `above`, counts that are not 0 ≤ c ≤ n with n ≥ 1,
            or a prompt with two rows of counts.
    """
    given = columns or {}
    try:
        rows, names = _rows(path, given)
    except ValueError as error:
        raise UsageError(f"file: {error}") from error
    if not rows:
        raise UsageError(f"file: expected rows of graded samples, got none in {path}")
    chosen = _columns(names, given, str(path))
    samples, notes = counted_samples(rows, chosen["prompt"], given="prompt" in given)
    if not samples:
        raise UsageError(f"file: expected rows of graded samples, got none in {path}. {' '.join(notes)}")
    if chosen.get("correct") in _REWARDS and "correct" not in given:
        rivals = [name for name in _REWARDS if name in names and name != chosen["correct"]]
        check_rivals([row for _, row, _ in samples], chosen["correct"], rivals, str(path), role="correct")
    counts: dict[str, list[int]] = {}
    for where, row, told in samples:
        try:
            prompt = _key(column_value(row, chosen["prompt"], where)) if told is None else told
            if "n" in chosen:
                n, c = (_count(column_value(row, chosen[role], where), role, where) for role in ("n", "c"))
                if prompt in counts:
                    raise ValueError(
                        f"{where}: expected one row of counts for each prompt, got a second one for {prompt[:60]!r}; "
                        "keep the rows of one checkpoint and one temperature"
                    )
                if not 0 <= c <= n or n < 1:
                    raise ValueError(f"{where}: expected 0 ≤ c ≤ n with n ≥ 1, got c = {c}, n = {n}")
            else:
                verdicts = _verdicts(column_value(row, chosen["correct"], where), above, where)
                n, c = len(verdicts), sum(verdicts)
        except ValueError as error:
            raise UsageError(f"file: {error}") from error
        total = counts.setdefault(prompt, [0, 0])
        total[0] += n
        total[1] += c
    n_and_c = np.array(list(counts.values()), dtype=np.int64)
    label = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in Path(path).name
    )
    notes = [f"{label}: {note}" for note in notes]
    if len(counts) > 1 and n_and_c[:, 0].max() == 1:
        notes.append(
            f"{label}: every prompt has a single sample, by the column {chosen['prompt']!r}; where that numbers "
            "samples, name the column of the prompt with --columns prompt=NAME."
        )
    return Graded(name or label, tuple(counts), n_and_c[:, 0], n_and_c[:, 1], tuple(notes))


def _rows(path: str | Path, given: Mapping[str, str]) -> tuple[list[tuple[Place, dict[str, Any]]], list[str]]:
    """The rows with the columns that may be read, and the names of all: responses are not held in memory."""
    kept = {name for options in _NAMES.values() for name in options} | set(given.values())
    kept |= {name.split(".")[0] for name in given.values()}
    names: dict[str, None] = {}
    texts: dict[str, str] = {}  # prompts, each once
    rows = []
    for where, row in each_row(path):
        names |= dict.fromkeys(column_names(row))
        own = {name: value for name, value in row.items() if name in kept}
        rows.append(
            (
                where,
                {name: texts.setdefault(value, value) if type(value) is str else value for name, value in own.items()},
            )
        )
    return rows, list(names)


def _columns(names: Sequence[str], given: Mapping[str, str], path: str) -> dict[str, str]:
    for role, column in given.items():
        if role not in _NAMES:
            raise UsageError(f"columns: unknown role {role!r}; {nearest(role, _NAMES)}")
        if column not in names:
            raise UsageError(f"columns: {path} has no column {column!r}; {nearest(column, names)}")
    if "correct" in given and {"n", "c"} & given.keys():
        raise UsageError("columns: expected correct, or n and c, got both; one row is a sample or a prompt")
    known = {role: next((name for name in options if name in names), None) for role, options in _NAMES.items()}
    columns = {role: column for role, column in (known | dict(given)).items() if column is not None}
    counted = {"n", "c"} <= columns.keys() and "correct" not in given
    roles = ("prompt", "n", "c") if counted else ("prompt", "correct")
    missing = [role for role in roles if role not in columns]
    if missing:
        raise UsageError(
            f"columns: expected prompt with correct, or prompt with n and c, got {', '.join(names)} in {path}; "
            f"name what is missing with columns {missing[0]}=NAME (--columns {missing[0]}=NAME)"
        )
    return {role: columns[role] for role in roles}


def _key(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    value = value.value() if isinstance(value, CsvText) else value
    return value.item() if isinstance(value, np.generic) else value


def _count(value: Any, role: str, where: str) -> int:
    number = _plain(value)
    whole = not isinstance(number, bool) and isinstance(number, int | float) and number % 1 == 0
    if not whole or abs(number) > _MOST:
        raise ValueError(f"{where}: expected a whole number of at most {_MOST:,} for {role}, got {value!r}")
    return int(number)


def _verdicts(value: Any, above: float | None, where: str) -> list[bool]:
    value = _plain(value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError(f"{where}: expected at least one verdict, got an empty list")
    return [_verdict(_plain(entry), above, where) for entry in values]


def _verdict(value: Any, above: float | None, where: str) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if not isinstance(value, bool | int | float) or value != value:
        raise ValueError(f"{where}: expected true or false, or a number, for correct, got {value!r}")
    if above is not None:
        return bool(value > above)
    if value not in (0, 1):
        raise ValueError(
            f"{where}: expected 0 or 1 for correct, got {value}; give the score that a correct sample exceeds "
            "(--above 0.5)"
        )
    return bool(value)
