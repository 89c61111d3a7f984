"""The formats of tables of rows, recognised by their content: JSON, CSV, Parquet, Arrow and torch.save.

All but the last may be compressed. No further package is needed: gzip, bzip2 and xz are read
by Python, zstd and Parquet by pyarrow, torch.save by torch. A file that is none of these (a pickle, an archive, a
database) is refused by what it is.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from .json_arrays import UnusualArray, array_objects
from .plain_values import WRAPPERS, rows_of_columns
from .torch_tables import is_torch_file, torch_documents

__all__ = ["CsvText", "Place", "rows_of_columns", "rows_of_file"]

Bad = Callable[[ValueError], None]
Places = Iterator[tuple["Place", Mapping[str, Any]]]

_BATCH = 1024  # rows of a table that become Python objects at a time
_SHOWN = 60  # characters of a broken line in a message
_HEAD = 512  # bytes that show what a file is
_LONG = 1 << 24  # bytes of an array that is not held in memory
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"))
_SUFFIXES = (".gz", ".zst", ".zstd", ".bz2", ".xz")
_ARCHIVE = b"PK\x03\x04"
_FOREIGN = (
    (_ARCHIVE, "a zip archive (numpy's .npz, Excel and Inspect write such files)"),
    (b"\x80", "a pickle"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF file"),
    (b"ustar", "a tar archive"),
)
_WRITE_ROWS = "load it with the program that wrote it and write its rows as JSON Lines or Parquet"


class CsvText(str):
    """A cell of a CSV file, where numbers and lists are texts as well."""

    __slots__ = ()

    def value(self) -> Any:
        """What the text says as JSON or as Python would print it: a number, a truth value, a list; else the text.

        >>> CsvText("[1, 2]").value(), CsvText("True").value(), CsvText("two").value()
        ([1, 2], True, 'two')
        """
        import ast

        for read in (json.loads, ast.literal_eval):
            try:
                return read(self)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
        return str(self)


class Place(str):
    """Where a row stands, as messages say it: "train.jsonl line 7".

    Attributes:
        file: Its file.
        number: Of its line or row, from 1 on.
    """

    __slots__ = ("file", "kind", "number", "part")
    file: str
    kind: str  # line or row
    number: int
    part: str

    def __new__(cls, file: str, kind: str, number: int, part: str = "") -> Place:
        """`part` is added to the text: which part of the row."""
        place = super().__new__(cls, f"{file} {kind} {number}{part}".lstrip())
        place.file, place.kind, place.number, place.part = file, kind, number, part
        return place

    def __getnewargs__(self) -> tuple[str, str, int, str]:  # type: ignore[override]  # str has one
        return self.file, self.kind, self.number, self.part

    def within(self, part: str) -> Place:
        """The place of a part of the row.

        >>> Place("a.jsonl", "line", 7).within(", response 2")
        'a.jsonl line 7, response 2'
        """
        return Place(self.file, self.kind, self.number, part) if part else self


def rows_of_file(path: Path, bad: Bad, name: str | None = None) -> Places:
    """Place and columns of each row; a row that is broken goes to `bad`. Places have the file's name, or `name`.

    JSON Lines, CSV, Parquet and long arrays of JSON are read as rows are asked for.

    Raises ValueError, OSError, EOFError.
    """
    name = name or path.name
    if path.is_dir():
        raise ValueError(_folder(path))
    with path.open("rb") as file:
        head = file.read(_HEAD)
    compression = next((name for mark, name in _COMPRESSED if head.startswith(mark)), None)
    try:
        with _opened(path, compression) as content:
            head = content.read(_HEAD)
        if compression is None and head.startswith(_ARCHIVE) and is_torch_file(path):
            yield from ((Place(name, "row", i), row) for i, row in enumerate(torch_documents(path), start=1))
            return
        if kind := next((kind for mark, kind in _FOREIGN if head.startswith(mark)), None):
            raise ValueError(f"{path} cannot be read: expected rows of a table, got {kind}; {_WRITE_ROWS}")
        if head[257:262] == b"ustar":
            raise ValueError(f"{path} cannot be read: expected rows of a table, got a tar archive; unpack it first")
        if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")) or path.suffix == ".parquet":
            yield from _arrow(path, name, compression, head)
            return
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path} cannot be read: its text is UTF-16; save it as UTF-8")
        if b"\x00" in head:
            raise ValueError(f"{path} cannot be read: expected text or Parquet, got binary data; {_WRITE_ROWS}")
        known = 0  # rows of a long array that were handed out
        if path.stat().st_size > _LONG and head.removeprefix(_BOM).lstrip().startswith(b"["):
            with _opened(path, compression) as content, io.TextIOWrapper(content, encoding="utf-8-sig") as text:
                try:
                    for known, row in enumerate(array_objects(text), start=1):
                        yield Place(name, "row", known), row
                    return
                except UnusualArray:  # read as a whole, it says what it is
                    pass
        with _opened(path, compression) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
            suffixes = [suffix for suffix in path.suffixes if suffix not in _SUFFIXES]
            suffix = suffixes[-1].lower() if suffixes else ""
            if suffix in (".csv", ".tsv"):
                yield from _csv(name, text, bad, "\t" if suffix == ".tsv" else ",")
            else:
                yield from islice(_json(name, text, bad), known, None)
    except (lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _folder(path: Path) -> str:
    names = sorted(item.name for item in path.iterdir())
    said = f"{path} cannot be read: Is a directory; expected a file"
    if {"dataset_info.json", "state.json"} & set(names) or "dataset_dict.json" in names:
        return f"{said}, got a folder of datasets.save_to_disk: give load_from_disk(…) from Python, or write to_parquet"
    if not names:
        return f"{said}, got an empty folder"
    return f"{said}, such as {path / names[0]}, one of {len(names)} in it"


def _opened(path: Path, compression: str | None) -> IO[bytes]:
    if compression is None:
        return path.open("rb")
    if compression == "zstd":
        import pyarrow as pa

        stream: IO[bytes] = io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
        return stream
    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[compression]
    opened: IO[bytes] = opener(path, "rb")
    return opened


def _arrow(path: Path, name: str, compression: str | None, head: bytes) -> Places:
    """Rows of Parquet, of an Arrow or Feather file, or of an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source: Any = path
    if compression is not None:
        with _opened(path, compression) as content:
            source = pa.BufferReader(content.read())
    number = 0
    try:
        batches: Any
        if head.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(pa.memory_map(str(path)) if compression is None else source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        elif head.startswith(b"\xff\xff\xff\xff"):
            batches = pa.ipc.open_stream(pa.memory_map(str(path)) if compression is None else source)
        else:
            batches = pq.ParquetFile(source).iter_batches(_BATCH)
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH):
                for row in batch.slice(start, _BATCH).to_pylist():
                    number += 1
                    yield Place(name, "row", number), row
    except pa.ArrowException as error:
        raise ValueError(
            f"{path} cannot be read: {error} The file may be incomplete: a writer that was stopped leaves out its end."
        ) from error


def _csv(name: str, text: IO[str], bad: Bad, delimiter: str) -> Places:
    """Rows below a line of names; an empty cell is null."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad(ValueError(f"{name} line {reader.line_num}: not valid CSV ({error})"))
            continue
        if not cells:
            continue
        if columns is None:
            columns = [cell.strip() for cell in cells]
            if double := sorted({column for column in columns if columns.count(column) > 1}):
                raise ValueError(f"{name} line 1: the column {double[0]!r} stands twice; give each a name of its own")
        elif len(cells) != len(columns):
            bad(ValueError(f"{name} line {reader.line_num}: expected {len(columns)} cells, got {len(cells)}"))
        else:
            row = zip(columns, cells, strict=True)
            yield Place(name, "line", reader.line_num), {key: CsvText(cell) if cell else None for key, cell in row}


def _json(name: str, text: IO[str], bad: Bad) -> Places:
    """JSON Lines where the first line is an object of its own, else whatever JSON the text is."""
    lines: Iterator[tuple[int, str]] = enumerate(text, start=1)
    number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        return
    try:
        document = json.loads(first)
    except (json.JSONDecodeError, RecursionError):
        document = None
    opening = first.lstrip()[0]
    if document is None and opening in "[{":
        rest = [(number, first), *lines]
        whole = _document(name, "".join(line for _, line in rest), rest[0][0])
        if isinstance(whole, list):
            yield from whole
            return
        if opening == "[" or (first.strip() == "{" and len(rest) > 1):
            raise whole
        lines, number, first = iter(rest[1:]), rest[0][0], rest[0][1]
    elif isinstance(document, list) and not any(line.strip() for _, line in lines):
        if _objects(document) or name.endswith(".json"):
            yield from _rows_of_document(name, document)
            return
        lines = iter(())
    elif isinstance(document, list):
        text.seek(0)
        lines, first, number = enumerate(text, start=1), "", 0
    yield from _json_lines(name, chain([(number, first)], lines), bad)


def _json_lines(name: str, lines: Iterator[tuple[int, str]], bad: Bad) -> Places:
    first: tuple[Place, Mapping[str, Any]] | None = None  # alone it may be an object of columns
    several = False
    for number, raw in lines:
        line, where = raw.removeprefix("\ufeff"), Place(name, "line", number)
        if not line.strip():
            continue
        shown = line.strip() if len(line) <= _SHOWN else line[:_SHOWN] + " …"
        try:
            row = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            bad(
                ValueError(
                    f"{where}: not valid JSON ({error.msg} at column {error.colno}{_comma(line, error)}): {shown}"
                )
            )
            continue
        except RecursionError:
            bad(ValueError(f"{where}: not valid JSON (nested too deeply): {shown}"))
            continue
        if not isinstance(row, dict):
            bad(ValueError(f"{where}: expected an object {{…}} on each line, got {shown}"))
            continue
        if first is None:
            first = (where, row)
            continue
        if not several:
            yield first
        several = True
        yield where, row
    if first is None or several:
        return
    columns = rows_of_columns(first[1])
    yield from [first] if columns is None else ((Place(name, "row", i), row) for i, row in enumerate(columns, start=1))


def _comma(text: str, error: json.JSONDecodeError) -> str:
    """A comma before the end of an array or an object, which JSON does not have."""
    before = text[: error.pos].rstrip()
    trailing = before.endswith(",") and text[error.pos :].lstrip()[:1] in ("]", "}", "")
    return "; a comma stands before it, which JSON does not allow at the end" if trailing else ""


def _document(name: str, text: str, first: int) -> list[tuple[Place, Mapping[str, Any]]] | ValueError:
    """Rows of one JSON value, or of several one after another; the error where it is neither."""
    decoder, place, values = json.JSONDecoder(), 0, []
    text = text.removeprefix("\ufeff").strip()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            line = first + text.count("\n", 0, error.pos)
            said = f"{error.msg} at column {error.colno}{_comma(text, error)}"
            return ValueError(f"{name} line {line}: not valid JSON ({said})")
        values.append(value)
        while place < len(text) and text[place].isspace():
            place += 1
    try:
        return list(_rows_of_document(name, values[0] if len(values) == 1 else values))
    except ValueError as error:
        return error


def _rows_of_document(name: str, document: Any) -> Places:
    if isinstance(document, dict):
        columns = rows_of_columns(document)
        lists = [key for key in WRAPPERS if _objects(document.get(key))]
        document = columns if columns is not None else document[lists[0]] if len(lists) == 1 else [document]
    for number, row in enumerate(document, start=1):
        if not isinstance(row, dict):
            shown = json.dumps(row)
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + " …"
            raise ValueError(f"{name} row {number}: expected an object {{…}}, got {shown}")
        yield Place(name, "row", number), row


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
