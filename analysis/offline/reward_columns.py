"""Which column of a file holds the rewards where its name alone does not tell: several that may, and TRL's table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .row_values import is_missing, value_or_none

__all__ = ["check_rivals", "numbers_of", "same_values", "trl_reward"]

Rows = Sequence[Mapping[str, Any]]

_ROUNDING = 1e-6  # relative; a score that was summed in float32 beside the same one in float64


def same_values(rows: Rows, names: Sequence[str]) -> bool:
    """Whether columns hold the same in every row, numbers within the rounding of float32."""
    return all(_equal(value_or_none(row, names[0]), value_or_none(row, name)) for row in rows for name in names[1:])


def _equal(first: Any, second: Any) -> bool:
    if is_number(first) and is_number(second):
        return math.isclose(first, second, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def check_rivals(rows: Rows, chosen: str, rivals: Sequence[str], source: str, *, role: str = "reward") -> str:
    """What to say of a reward that other columns hold as well.

    Args:
        rows: The rows.
        chosen: The column that is read.
        rivals: Other columns that may be meant.
        source: Name of the file.
        role: What the column is read as, by the name that `columns` knows.

    Raises:
        UsageError: One of them holds other numbers.
    """
    for name in rivals:
        different = next((row for row in rows if not same_values([row], [chosen, name])), None)
        if different is not None:
            values = f"{value_or_none(different, chosen)} and {value_or_none(different, name)}"
            raise UsageError(
                f"columns: {source} has {chosen} and {name}, either of which may be the reward, and they differ (such "
                f"as {values}); choose one with columns {role}={chosen} or {role}={name} (--columns {role}={chosen})"
            )
    if not rivals:
        return ""
    return f"The columns {chosen!r} and {', '.join(map(repr, rivals))} hold the same rewards; {chosen!r} is read."


def numbers_of(rows: Rows, filled: Sequence[str], taken: set[str | None]) -> tuple[str, ...]:
    """Columns of numbers that no role has taken."""
    return tuple(
        name
        for name in filled
        if name not in taken
        and all(is_number(value_or_none(row, name)) or is_missing(value_or_none(row, name)) for row in rows)
    )


def trl_reward(
    filled: Sequence[str], advantage: str | None, candidates_of: Sequence[str], source: str
) -> tuple[str | None, str]:
    """The rewards in TRL's completions table, whose columns are step, prompt, completion, those of the reward
    functions, whatever these logged besides, and advantage; and what to say of them.

    Args:
        filled: The columns that are not null throughout, in the order of the file.
        advantage: The column of advantages that is read.
        candidates_of: Columns of numbers that no role has taken.
        source: Name of the file.

    Raises:
        UsageError: Several columns may be the reward, and no advantage is read.
    """
    if not {"completion", "advantage"} <= set(filled):
        return None, ""
    between = filled[filled.index("completion") + 1 : filled.index("advantage")]
    candidates = [name for name in between if name in candidates_of]
    if len(candidates) == 1:
        return candidates[0], ""
    if not candidates:
        return None, ""
    listed = ", ".join(candidates)
    if advantage is None:
        raise UsageError(
            f"columns: {source} has several columns of numbers that may be the reward "
            f"({listed}); choose one with columns reward={candidates[0]}, or their sum with columns "
            f"reward={'+'.join(candidates)}"
        )
    return None, (
        f"Several columns of numbers may be the reward ({listed}) and none was named, so that no rewards are read: A "
        f"is the column {advantage!r} of the file. Name one with --columns reward={candidates[0]}, or their "
        f"sum with --columns reward={'+'.join(candidates)}."
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number or a truth value."""
    return isinstance(value, bool | int | float)
