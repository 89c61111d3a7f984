"""Validation and rollout dumps of verl as graded samples.

verl writes one row for each response (`input`, `output`, `gts`, `score`, `step`, `uid` and what the reward function
returned; verl/trainer/ppo/v1/trainer_base.py, `_write_generations`). Its `uid` is prompt_session_output with a random
name of the prompt: it numbers responses, and no two dumps share one. The prompt is therefore the text `input`, which
also pairs two checkpoints. Of a session of several outputs (turns) the last one counts, as in verl's own metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["PROMPT", "is_verl_dump", "last_outputs"]

PROMPT = "input"
_Where = TypeVar("_Where")
_COLUMNS = frozenset({"input", "output", "gts", "score", "step", "uid"})


def is_verl_dump(names: Collection[str]) -> bool:
    """Whether columns of these names are those of a dump."""
    return set(names) >= _COLUMNS


def last_outputs(rows: Iterable[tuple[_Where, Mapping[str, Any]]]) -> list[tuple[_Where, Mapping[str, Any]]]:
    """The rows without earlier outputs of a session; a uid that does not number outputs is a session of its own.

    >>> rows = [(1, {"uid": "a_0_0"}), (2, {"uid": "a_0_1"}), (3, {"uid": "a_1_0"}), (4, {"uid": "b"})]
    >>> [where for where, _ in last_outputs(rows)]
    [2, 3, 4]
    """
    last: dict[str, tuple[int, tuple[_Where, Mapping[str, Any]]]] = {}
    for row in rows:
        uid = str(row[1].get("uid"))
        session, mark, number = uid.rpartition("_")
        numbered = bool(mark) and number.isdecimal() and session.rpartition("_")[2].isdecimal()
        key, output = (session, int(number)) if numbered else (uid, 0)
        if key not in last or output > last[key][0]:
            last[key] = (output, row)
    return [row for _, row in last.values()]
