"""Arrays, tensors and their scalars as plain Python values, and columns as rows.

Nothing is imported to ask what a value is: its methods tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["WRAPPERS", "plain", "rows_of_columns"]

# entries of a document that hold its rows
WRAPPERS = ("data", "rows", "samples", "rollouts", "examples", "results", "instances", "records")

_PLAIN = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    """The value with lists in place of arrays and tensors, within objects and lists too.

    >>> plain({"a": (1, 2.0)})
    {'a': [1, 2.0]}
    """
    if type(value) in _PLAIN or (type(value) is list and _PLAIN.issuperset(map(type, value))):
        return value  # most of a table: lists of token ids
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def rows_of_columns(table: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object of columns, each a list of the same length; None where it is something else.

    A row of one's own whose values are lists as well (token ids, chat messages) is not such a table: of its columns
    none holds texts or lists.

    >>> rows_of_columns({"prompt": ["a", "b"], "reward": [0, 1]})
    [{'prompt': 'a', 'reward': 0}, {'prompt': 'b', 'reward': 1}]
    >>> rows_of_columns({"prompt_ids": [1, 2], "response_ids": [3, 4]})
    """
    values = list(table.values())
    if not values or not all(isinstance(value, list) for value in values):
        return None
    sizes = {len(value) for value in values}
    messages = any(isinstance(item, Mapping) and "role" in item for value in values for item in value[:1])
    columns = any(isinstance(item, str | list) for value in values for item in value)
    if len(sizes) != 1 or messages or not columns:
        return None
    return [dict(zip(table, cells, strict=True)) for cells in zip(*values, strict=True)]
