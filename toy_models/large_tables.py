"""Rows of a large file, read one at a time: JSON Lines by the place of each line, Parquet by a copy in Arrow's format.

Neither holds the rows. What is held is the place of each line (8 bytes) of JSON Lines; of Parquet, which cannot be read
from the middle, the chosen columns are copied once into the cache folder, from where they are mapped into memory. Both
are kept in the cache folder under the SHA-256 of the file, so that a second start reads no row that it does not need.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from . import file_digests
from .file_digests import file_digest, kept_folder
from .table_files import Row, chosen_columns, read_table

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LargeTable", "count_distinct", "open_table", "short_hash"]

_BLOCK = 16 << 20  # bytes of JSON Lines that are searched for line ends at a time
_ROWS = 4096  # of a batch of the copy of a Parquet file
_MARK = b"\xef\xbb\xbf"  # which some programs write at the start of UTF-8 text
_VERSION = 1  # of what is kept


def open_table(path: str | Path, columns: Sequence[str], optional: Sequence[str] | None = ()) -> Sequence[Row]:
    """The rows of a file in their order: those of a large one are read when they are asked for.

    Args:
        path: The file; from 32 MB on, plain JSON Lines and Parquet count as large, and other formats never do.
        columns: See `read_table`.
        optional: See `read_table`.

    Raises:
        ValueError: As `read_table`; of a large file a row that is broken is found where it is read.
    """
    path = Path(path)
    try:
        large = path.is_file() and path.stat().st_size >= file_digests.LARGE
    except OSError:
        large = False
    if large:
        with path.open("rb") as file:
            head = file.read(1 << 16)
        if head.startswith(b"PAR1"):
            return _ParquetTable(path, columns, optional)
        if _json_lines(path, head):
            starts = _line_starts(path)
            if starts is not None:
                return _JsonTable(path, columns, optional, starts)
    return read_table(path, columns, optional)


class LargeTable(Sequence[Row]):
    """Rows that are read when they are asked for.

    Attributes:
        digest: Identity of the file's content and of the chosen columns, for what is kept about the rows.
    """

    def __init__(self, path: Path, columns: Sequence[str], optional: Sequence[str] | None) -> None:
        self.path, self._columns, self._optional = path, columns, optional
        chosen = [_VERSION, file_digest(path), sorted(set(columns)), optional and sorted(optional)]
        self.digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()

    @abstractmethod
    def _row(self, index: int) -> Row:
        """The row at a place."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(index % len(self))

    def __iter__(self) -> Iterator[Row]:
        for index in range(len(self)):
            yield self._row(index)

    def _chosen(self, row: Mapping[str, Any], where: str) -> Row:
        return Row(where, chosen_columns(row, where, self._columns, self._optional))


class _JsonTable(LargeTable):
    def __init__(
        self, path: Path, columns: Sequence[str], optional: Sequence[str] | None, starts: np.ndarray[Any, Any]
    ) -> None:
        super().__init__(path, columns, optional)
        self._starts = starts  # (2, rows): the first byte of each row, and the number of its line
        self._file = path.open("rb")

    def __reduce__(self) -> tuple[Any, ...]:
        return open_table, (self.path, self._columns, self._optional)

    def __len__(self) -> int:
        return int(self._starts.shape[1])

    def _row(self, index: int) -> Row:
        self._file.seek(int(self._starts[0, index]))
        line = self._file.readline()
        where = f"{self.path.name} line {int(self._starts[1, index])}"
        try:
            row = json.loads(line.removeprefix(_MARK).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{where}: expected an object {{…}} on each line, got {line[:60].decode(errors='replace')}"
            )
        return self._chosen(row, where)


class _ParquetTable(LargeTable):
    def __init__(self, path: Path, columns: Sequence[str], optional: Sequence[str] | None) -> None:
        import numpy as np
        import pyarrow as pa

        super().__init__(path, columns, optional)
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(self._copy())))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} cannot be read: {error} The file may be incomplete: a writer that was stopped leaves out its "
                "end."
            ) from error
        sizes = [self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches)]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_table, (self.path, self._columns, self._optional)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _row(self, index: int) -> Row:
        import numpy as np

        batch = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[batch - 1]) if batch else 0
        (row,) = self._reader.get_batch(batch).slice(index - before, 1).to_pylist()
        return self._chosen(row, f"{self.path.name} row {index + 1}")

    def _copy(self) -> Path:
        """The chosen columns in Arrow's file format; a missing column stays missing, and is named where it is read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = kept_folder("tables")
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="rlvr-dynamics-"))
        copy = folder / f"{self.digest}.arrow"
        if not copy.exists():
            file = pq.ParquetFile(self.path)
            names = file.schema_arrow.names
            wanted = [*self._columns, *(self._optional or ())]
            roots = {name if name in names else name.partition(".")[0] for name in wanted}
            kept = names if self._optional is None else [name for name in names if name in roots] or names[:1]
            part = copy.with_name(f"{copy.name}.{os.getpid()}")
            schema = pa.schema([file.schema_arrow.field(name) for name in kept])
            try:
                with pa.ipc.new_file(str(part), schema) as writer:
                    for batch in file.iter_batches(_ROWS, columns=kept):
                        writer.write_batch(batch)
                part.replace(copy)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink()
        return copy


def _json_lines(path: Path, head: bytes) -> bool:
    """Whether the first line is an object of its own, in plain UTF-8 text without a name that says otherwise."""
    if {".csv", ".tsv"} & {suffix.lower() for suffix in path.suffixes} or b"\x00" in head:
        return False
    first = head.removeprefix(_MARK).lstrip().partition(b"\n")[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _line_starts(path: Path) -> np.ndarray[Any, Any] | None:
    """The first byte and the number of every line that is not empty; None where lines end in another way than "\\n"."""
    import numpy as np

    folder, digest = kept_folder("tables"), file_digest(path)
    note = None if folder is None else folder / f"{digest}.lines{_VERSION}.npy"
    if note is not None and note.exists():
        with contextlib.suppress(OSError, ValueError):
            starts: np.ndarray[Any, Any] = np.load(note)
            return starts
    ends: list[np.ndarray[Any, Any]] = []
    with path.open("rb") as file:
        place = 0
        while block := file.read(_BLOCK):
            if b"\r" in block:  # a lone one ends a line, too; the reader of small files knows
                return None
            places = np.flatnonzero(np.frombuffer(block, np.uint8) == 10).astype(np.int64) + place
            ends.append(places)
            place += len(block)
    size = path.stat().st_size
    stops = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    if not len(stops) or stops[-1] != size - 1:
        stops = np.append(stops, size)
    begins = np.concatenate([[0], stops[:-1] + 1])
    numbers = np.arange(1, len(stops) + 1)
    short = np.flatnonzero(stops - begins < 64)  # a line of white space alone is short, or is found where it is read
    with path.open("rb") as file:
        empty = [i for i in short if not _at(file, int(begins[i]), int(stops[i])).removeprefix(_MARK).strip()]
    keep = np.ones(len(stops), bool)
    keep[empty] = False
    starts = np.stack([begins[keep], numbers[keep]])
    if starts.shape[1] < 2:
        return None  # an object of columns may be one line
    if note is not None:
        with contextlib.suppress(OSError):
            part = note.with_name(f"{note.name}.{os.getpid()}.npy")
            np.save(part, starts)
            part.replace(note)
    return starts


def _at(file: Any, begin: int, end: int) -> bytes:
    file.seek(begin)
    data: bytes = file.read(end - begin)
    return data


def count_distinct(rows: LargeTable, check: Callable[[Row], Any]) -> int:
    """How many different values `check` has of the rows; it sees each row once for a content and is not asked again.

    Args:
        rows: The rows.
        check: Gives plain data of a row, or raises ValueError for a row that is invalid. What it does may depend on the
            row alone.
    """
    import numpy as np

    folder = kept_folder("tables")
    note = None if folder is None else folder / f"{rows.digest}.distinct"
    if note is not None:
        with contextlib.suppress(OSError, ValueError):
            return int(note.read_text(encoding="ascii"))
    keys = np.fromiter((short_hash(json.dumps(check(row), sort_keys=True)) for row in rows), np.uint64, len(rows))
    count = len(np.unique(keys))
    if note is not None:
        with contextlib.suppress(OSError):
            note.write_text(str(count), encoding="ascii")
    return count


def short_hash(text: str) -> int:
    """64 bits of a hash: two of a million texts collide with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
