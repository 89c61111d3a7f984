"""Rows of a file of any usual format, with errors that name the file and the line.

Read are JSON Lines, JSON (an array of objects, an object of columns, objects one after another), CSV and TSV, Parquet,
Arrow and Feather, each also compressed with gzip, bzip2, xz or zstd, and plain values of torch.save (`table_formats`).
The content decides, not the name; only a CSV or TSV file is known by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .table_formats import Place, rows_of_file

__all__ = ["Row", "chosen_columns", "column_names", "column_value", "each_row", "raw_rows", "read_table"]


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


def read_table(path: str | Path, columns: Sequence[str], optional: Sequence[str] | None = ()) -> list[Row]:
    """The rows of a file in their order.

    Args:
        path: The file. Empty lines do not count.
        columns: The columns to read; `a.b` is the entry b of the objects in column a.
        optional: Further columns, of which a row may lack some or have null; None for all of the file.

    Raises:
        ValueError: The file cannot be read, a line is broken, or a column is missing or null; the message names
            the line.
    """
    return [Row(where, chosen_columns(row, where, columns, optional)) for where, row in raw_rows(path)]


def chosen_columns(
    row: Mapping[str, Any], where: str, columns: Sequence[str], optional: Sequence[str] | None = ()
) -> dict[str, Any]:
    """The columns of a row as `read_table` reads them. Raises ValueError as `column_value` does."""
    further = {name: row[name] for name in (row if optional is None else optional) if name in row}
    return further | {name: column_value(row, name, where) for name in columns}


def _refuse(error: ValueError) -> NoReturn:
    raise error


def raw_rows(
    path: str | Path, bad: Callable[[ValueError], None] = _refuse, name: str | None = None
) -> list[tuple[Place, Mapping[str, Any]]]:
    """The place and all columns of each row, in the order of the file. Places have the file's name, or `name`.

    A broken line is left out and its error passed to `bad`, which raises it by default. Raises ValueError for a file
    that cannot be read at all.
    """
    return list(each_row(path, bad, name))


def each_row(
    path: str | Path, bad: Callable[[ValueError], None] = _refuse, name: str | None = None
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The rows of `raw_rows` one after another. JSON Lines, CSV, tables of Arrow and long arrays of JSON
    are not held in memory."""
    path = Path(path)
    try:
        yield from rows_of_file(path, bad, name)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error


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
        names += column_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return names
