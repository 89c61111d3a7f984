"""Rows of a JSON Lines or Parquet file, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Row", "column_names", "column_value", "raw_rows", "read_table"]

_SHOWN = 60  # characters of a broken line in a message


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        where: Its place, such as "train.jsonl line 7".
        values: The chosen columns.
    """

    where: str
    values: dict[str, Any]

    def text(self, column: str) -> str:
        """The value of a column as text: strings as they are, anything else as JSON."""
        value = self.values[column]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_table(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a file in their order; a file ending in `.parquet` is Parquet, any other JSON Lines (UTF-8).

    Args:
        path: The file. Empty lines do not count.
        columns: The columns to read; `a.b` is the entry b of the objects in column a.

    Raises:
        ValueError: The file cannot be read, a line is broken, or a column is missing or null; the message names
            the line.
    """
    return [Row(where, {name: column_value(row, name, where) for name in columns}) for where, row in raw_rows(path)]


def _refuse(error: ValueError) -> NoReturn:
    raise error


def raw_rows(path: str | Path, bad: Callable[[ValueError], None] = _refuse) -> list[tuple[str, Mapping[str, Any]]]:
    """The place and all columns of each row, in the order of the file.

    A broken line is left out and its error passed to `bad`, which raises it by default. Raises ValueError for a file
    that cannot be read at all.
    """
    path = Path(path)
    try:
        return list(_parquet(path) if path.suffix == ".parquet" else _json_lines(path, bad))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _json_lines(path: Path, bad: Callable[[ValueError], None]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path.name} line {number}"
            if not line.strip():
                continue
            shown = line.strip() if len(line) <= _SHOWN else line[:_SHOWN] + " …"
            try:
                row = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                bad(ValueError(f"{where}: not valid JSON ({error.msg} at column {error.colno}): {shown}"))
                continue
            if not isinstance(row, dict):
                bad(ValueError(f"{where}: expected an object {{…}} on each line, got {shown}"))
                continue
            yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path} cannot be read: {error} The file may be incomplete: a writer that was stopped leaves out its end."
        ) from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path.name} row {number}", row


def column_value(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value of a column, for `a.b` of entry b in column a. Raises ValueError where it is missing or null."""
    if column in row:
        value = row[column]
    else:
        value = row
        for name in column.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise ValueError(f"{where}: no column {column!r}; it has {', '.join(column_names(row)) or 'none'}")
            value = value[name]
    if value is None:
        raise ValueError(f"{where}: the column {column!r} is null")
    return value


def column_names(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The columns of a row, with entries of objects as `a.b`.

    >>> column_names({"a": 1, "b": {"c": 2}})
    ['a', 'b.c']
    """
    names: list[str] = []
    for name, value in row.items():
        names += column_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [prefix + name]
    return names
