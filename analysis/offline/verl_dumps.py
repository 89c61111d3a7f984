"""What is peculiar to the rollouts that verl dumps (`trainer.rollout_data_dir`, `trainer.validation_data_dir`).

verl names a row PROMPT_SESSION_OUTPUT: PROMPT is that of a group, drawn anew at each step and each validation; SESSION
counts the rollouts of the prompt; OUTPUT counts the texts that an agent wrote within one rollout, each under a context
of its own. A batch that does not divide by the number of processes is filled up with rows of end tokens, which have the
mask 0 and PROMPT = "pad" and 32 hexadecimal digits; decoded, their texts are empty.

Source: verl 0.9.1, trainer/ppo/v1/trainer_base.py (_log_rollout_data, _validate), trainer/ppo/padding_utils.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["UID", "RowKey", "is_padding", "key_of", "keys_of", "padding_note", "padding_rows", "session_groups"]

UID = "uid"
_KEY = re.compile(r"(.+)_(\d+)_(\d+)")
_PADDING = re.compile(r"pad[0-9a-f]{32}(_\d+_\d+)?")


@dataclass(frozen=True)
class RowKey:
    """The parts of a row's name."""

    prompt: str
    session: int
    output: int


def key_of(uid: Any) -> RowKey | None:
    """The parts of a name as verl gives it; None for another text.

    >>> key_of("7f3a_0_1")
    RowKey(prompt='7f3a', session=0, output=1)
    """
    found = _KEY.fullmatch(uid) if isinstance(uid, str) else None
    return None if found is None else RowKey(found[1], int(found[2]), int(found[3]))


def keys_of(labels: Sequence[Any]) -> list[RowKey] | None:
    """verl's names, of which each row has its own; None for others.

    >>> [key.prompt for key in keys_of(["a_0_0", "a_1_0", "b_0_0"])]
    ['a', 'a', 'b']
    """
    keys = [key_of(label) for label in labels]
    if not keys or None in keys or len(set(labels)) < len(labels):
        return None
    return [key for key in keys if key is not None]


def is_padding(row: Mapping[str, Any]) -> bool:
    """Whether a row fills up a batch."""
    uid = row.get(UID)
    return isinstance(uid, str) and _PADDING.fullmatch(uid) is not None


def padding_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[frozenset[int], list[str]]:
    """The places of rows that fill up batches, and a note on them."""
    places = frozenset(place for place, row in enumerate(rows) if is_padding(row))
    return places, [padding_note(len(places), len(rows))] if places else []


def padding_note(count: int, rows: int) -> str:
    """What a summary says of rows that fill up batches."""
    return (
        f"{count:,} of {rows:,} rows are left out: verl filled up a batch with them (their {UID!r} begins with 'pad'), "
        "and nothing was trained on them."
    )


def session_groups(keys: Sequence[RowKey], prompts: Sequence[Any]) -> tuple[list[str], str]:
    """The group of each row, and what to say where rollouts have several outputs.

    Rows of one group saw the same prompt. Outputs of one rollout saw different ones, and are compared with those of
    other rollouts that saw the same.

    >>> session_groups([RowKey("a", 0, 0), RowKey("a", 0, 1), RowKey("a", 1, 0)], ["1+", "1+1", "1+"])[0]
    ['a 796605784a76', 'a f1f40485c5e4', 'a 796605784a76']
    """
    seen: dict[str, set[str]] = {}
    for key, prompt in zip(keys, prompts, strict=True):
        seen.setdefault(key.prompt, set()).add(repr(prompt))
    groups = [
        key.prompt if len(seen[key.prompt]) == 1 else f"{key.prompt} {_short_hash(prompt)}"
        for key, prompt in zip(keys, prompts, strict=True)
    ]
    several = len({(key.prompt, key.session) for key in keys if key.output})
    if not several:
        return groups, ""
    return groups, (
        f" {several:,} rollouts have several outputs, each of which is a row: verl compares the last one of each "
        "rollout and hands its advantage to the others, which a dump does not hold; here outputs are compared with "
        "those of the same prompt alone."
    )


def _short_hash(prompt: Any) -> str:
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:12]
