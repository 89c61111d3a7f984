"""Rows in memory: lists of dicts, dicts of lists, data frames, Arrow tables, `datasets.Dataset`.

Arrays, tensors and numpy scalars become plain Python values; a missing value of a data frame becomes None. What has no
fixed rows (an iterable dataset, a lazy frame) or several tables (a dict of splits) is refused with the way to get one.
Nothing is imported to ask what a container is: its class tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toy_models.plain_values import plain

from ..errors import UsageError

__all__ = ["records_of"]

_EXPECTED = "a file, a list of dicts, a dict of lists, a data frame, an Arrow table or a datasets.Dataset"


def records_of(source: Any) -> list[dict[str, Any]]:
    """The rows of a container as plain data.

    Args:
        source: list of dicts, dict of lists, pandas or polars data frame, Arrow table, `datasets.Dataset`.

    Returns:
        One dict for each row, in order.

    Raises:
        UsageError: another container, columns of different lengths, or a row that is not a dict.

    >>> records_of({"prompt": ["a", "b"], "reward": [0, 1]})
    [{'prompt': 'a', 'reward': 0}, {'prompt': 'b', 'reward': 1}]
    """
    kind, library = type(source).__name__, type(source).__module__.partition(".")[0]
    if library == "datasets":
        source = _of_dataset(source, kind)
    elif kind == "LazyFrame":
        raise UsageError("rollouts: expected rows, got a polars LazyFrame; give frame.collect()")
    elif library == "pandas" and kind == "DataFrame":
        source = [
            {name: None if _is_missing(value) else value for name, value in row.items()}
            for row in source.to_dict("records")
        ]
    elif hasattr(source, "to_dicts"):  # polars
        source = source.to_dicts()
    elif hasattr(source, "read_all"):  # a reader of Arrow's record batches
        source = source.read_all().to_pylist()
    elif hasattr(source, "to_pylist"):
        source = source.to_pylist()
    elif isinstance(source, Mapping):
        source = _of_columns(source)
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise UsageError(f"rollouts: expected {_EXPECTED}, got {type(source).__name__}")
    records = []
    for number, row in enumerate(source):
        if not isinstance(row, Mapping):
            raise UsageError(f"rollouts: expected {_EXPECTED}; rollout {number} is of type {type(row).__name__}")
        records.append({str(name): plain(value) for name, value in row.items()})
    return records


def _of_dataset(source: Any, kind: str) -> Any:
    if "Dict" in kind:
        splits = ", ".join(map(str, source))
        raise UsageError(f"rollouts: expected one table, got a {kind} with the splits {splits}; choose one by its name")
    if "Iterable" in kind:
        raise UsageError(
            f"rollouts: expected rows, got a datasets.{kind}; give list(dataset), or list(dataset.take(n))"
        )
    return source.with_format(None).to_list() if hasattr(source, "with_format") else source


def _of_columns(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = {name: plain(value) for name, value in source.items()}
    other = next((name for name, value in columns.items() if not isinstance(value, list)), None)
    if other is not None:
        raise UsageError(
            f"rollouts: expected {_EXPECTED}, got a dict whose entry {other!r} is not a list but "
            f"{type(source[other]).__name__}; give [row] for a single row"
        )
    sizes = {name: len(value) for name, value in columns.items()}
    if len(set(sizes.values())) > 1:
        few, many = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        raise UsageError(
            f"rollouts: expected columns of one length, got {sizes[few]} in {few!r} and {sizes[many]} in {many!r}"
        )
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _is_missing(value: Any) -> bool:
    """What pandas stores for a value that is missing, NaN of a column of numbers apart: None, NA, NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")
