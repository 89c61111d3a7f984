"""Which column of a file holds what: prompts, responses, rewards, under the names that rollout dumps give them.

Known names, by role:

    prompt          prompt (TRL's completions table), input (verl's rollout dump)
    response        response, completion (TRL), output (verl)
    reward          reward, score (verl); TRL names its column after the reward function: the one column of numbers
                    between completion and advantage
    …               see `COLUMNS`

Any other name is mapped: {"prompt": "question"}, on the command line --columns prompt=question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toy_models.messages import nearest
from toy_models.table_files import column_names

from ..errors import UsageError

__all__ = ["COLUMNS", "find_columns", "parse_mapping"]

# role -> known names
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "input"),
    "response": ("response", "completion", "output"),
    "reward": ("reward", "score"),
    "group": ("group",),
    "advantage": ("advantage",),
    "old_log_probs": ("old_log_probs", "old_per_token_logps"),
    "prompt_ids": ("prompt_ids",),
    "response_ids": ("response_ids", "completion_ids"),
    "answer": ("answer", "gts"),
    "step": ("step",),
    "tools": ("tools",),
    "template_arguments": ("chat_template_kwargs",),
}
_EITHER = (("prompt", "prompt_ids"), ("response", "response_ids"))
_SHOWN = 30  # columns in a message


def parse_mapping(text: str) -> dict[str, str]:
    """Columns as the command line writes them: role=name, separated by commas.

    >>> parse_mapping("prompt=question,reward=scores.math")
    {'prompt': 'question', 'reward': 'scores.math'}
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        role, sign, name = part.partition("=")
        if not sign or not role.strip() or not name.strip():
            raise UsageError(f"columns: expected ROLE=NAME, such as prompt=question, got {part!r}")
        found[role.strip()] = name.strip()
    return found


def find_columns(rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], source: str) -> dict[str, str]:
    """role -> column, for the roles that the rows have a column for; `given` goes before the known names.

    Raises UsageError for an unknown role, a column that no row has, two columns that may be meant, and where prompts or
    responses are missing; messages list the columns found.
    """
    names = list(dict.fromkeys(name for row in rows for name in (*row, *column_names(row))))
    shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    for role, name in given.items():
        if role not in COLUMNS:
            raise UsageError(f"columns: unknown role {role!r}; {nearest(role, COLUMNS)}")
        if name not in names:
            raise UsageError(f"columns: {source} has no column {name!r} for {role}; it has {shown}")
    found = {role: given.get(role) or _known(role, names, source) for role in COLUMNS}
    if found["reward"] is None:
        found["reward"] = _trl_reward(rows, names, found, source)
    for either in _EITHER:
        if not any(found[role] for role in either):
            known = ", ".join(name for role in either for name in COLUMNS[role])
            raise UsageError(
                f"columns: {source} has no column for the {either[0]} (known names: {known}); it has "
                f"{shown}; map one with columns {either[0]}=NAME"
            )
    return {role: name for role, name in found.items() if name is not None}


def _known(role: str, names: Sequence[str], source: str) -> str | None:
    there = [name for name in COLUMNS[role] if name in names]
    if len(there) > 1:
        raise UsageError(
            f"columns: {source} has {' and '.join(there)}, either of which may be the {role}; choose one with "
            f"columns {role}={there[0]}"
        )
    return there[0] if there else None


def _trl_reward(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], found: Mapping[str, str | None], source: str
) -> str | None:
    """The rewards in TRL's completions table, whose columns are step, prompt, completion, those of the reward
    functions, whatever these logged besides, and advantage."""
    if not {"completion", "advantage"} <= set(names):
        return None
    taken = set(found.values())
    between = [name for name in names[names.index("completion") + 1 : names.index("advantage")] if name not in taken]
    numbers = [name for name in between if any(_is_number(row.get(name)) for row in rows)]
    if len(numbers) > 1:
        raise UsageError(
            f"columns: {source} has several columns of numbers that may be the reward "
            f"({', '.join(numbers)}); choose one with columns reward={numbers[0]}"
        )
    return numbers[0] if numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)
