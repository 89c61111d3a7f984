"""Rows to Arrow and Parquet: checked against the schema when they are written, hashed by content for comparison.

Parquet settings: zstd level 1, dictionaries for prompt ids and other texts of few values, byte-stream split for floats,
also in lists. On 100,000 rows of `tokens`, byte-stream split saves 7% of the bytes for 8% more time; dictionaries for
integers would save another 3% (benchmarks/test_store.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toy_models.messages import nearest

from ..errors import UsageError
from .schema import TABLES, Column, arrow_schema

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ColumnValues", "Columns", "ContentHash", "parquet_bytes", "ragged", "record_batch"]

# columns whose few values repeat
_DICTIONARY = ("prompt_id", "split", "kind", "phase", "verdict")


# What a column may be given as: values in order, or one value for every row
ColumnValues: TypeAlias = (
    "np.ndarray | Tensor | Sequence[Any] | pa.Array | pa.ChunkedArray | bool | int | float | str | None"
)
Columns: TypeAlias = Mapping[str, ColumnValues]


def record_batch(table: str, columns: Columns) -> pa.RecordBatch:
    """Rows of `table` from columns of equal length.

    Args:
        table: one of `schema.TABLES`.
        columns: each a numpy array (2-D for lists of equal length), a masked array, a CPU tensor, a sequence (of
            sequences for lists; None for a missing value) or an Arrow array. A scalar is repeated over all rows. A
            nullable column that is left out or None is null throughout.

    Raises:
        UsageError: an unknown table or column, columns of different lengths, a missing value where none may be, or
            values of another type. Values are never rounded: a float in an integer column is an error.
    """
    if table not in TABLES:
        raise UsageError(f"table: unknown name {table!r}; {nearest(table, TABLES)}")
    spec = TABLES[table]
    if unknown := columns.keys() - set(spec.names):
        name = min(unknown)
        raise UsageError(f"{table}: unknown column {name!r}; {nearest(name, spec.names)}")
    if missing := [c.name for c in spec.columns if not c.null and columns.get(c.name) is None]:
        raise UsageError(
            f"{table}: expected the columns {', '.join(missing)}, got nothing for them; they may not be null"
        )
    lengths = {name: _length(values) for name, values in columns.items() if not _is_scalar(values)}
    rows = next(iter(lengths.values()), 1)
    if any(length != rows for length in lengths.values()):
        raise UsageError(f"{table}: expected columns of one length, got {lengths}")
    schema = arrow_schema(table)
    arrays = [_array(table, c, schema.field(c.name).type, columns.get(c.name), rows) for c in spec.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def ragged(flat: np.ndarray, lengths: Sequence[int] | np.ndarray) -> pa.ListArray:
    """Lists of the given lengths, one after the other in `flat`."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(np.asarray(lengths, dtype=np.int32), out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, pa.array(flat))


def _is_scalar(values: Any) -> bool:
    if values is None or isinstance(values, str):
        return True
    return not isinstance(values, list | tuple | pa.Array | pa.ChunkedArray) and np.ndim(values) == 0


def _length(values: Any) -> int:
    return len(values)


def _array(table: str, column: Column, kind: pa.DataType, values: Any, rows: int) -> pa.Array:
    try:
        if values is None:
            return pa.nulls(rows, kind)
        array = pa.repeat(pa.scalar(_plain(values)), rows) if _is_scalar(values) else _sequence(values)
        if array.type != kind:
            _check_kind(array.type, kind)
            array = array.cast(kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{table}.{column.name}: expected {column.kind}, got other values ({error})") from error
    if not column.null and array.null_count:
        raise UsageError(
            f"{table}.{column.name}: expected a value in every row, got {array.null_count} rows without one"
        )
    if pa.types.is_list(kind) and array.flatten().null_count:
        raise UsageError(f"{table}.{column.name}: expected lists without missing entries, got some that are None")
    return array


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _sequence(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, list | tuple):
        return pa.array(values)
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.ndim == 2:
        return ragged(np.ascontiguousarray(array).ravel(), np.full(len(array), array.shape[1]))
    return pa.array(array)


def _check_kind(got: pa.DataType, want: pa.DataType) -> None:
    if pa.types.is_null(got):
        return
    if pa.types.is_list(want):
        if not (pa.types.is_list(got) or pa.types.is_large_list(got)):
            raise TypeError(f"{got} instead of lists")
        return _check_kind(got.value_type, want.value_type)
    families = (
        (pa.types.is_boolean, pa.types.is_boolean),
        (pa.types.is_string, pa.types.is_string),
        (pa.types.is_integer, pa.types.is_integer),
        (pa.types.is_floating, lambda t: pa.types.is_floating(t) or pa.types.is_integer(t)),
    )
    accepts = next(accepts for is_kind, accepts in families if is_kind(want))
    if not accepts(got):
        raise TypeError(f"{got} instead of {want}")


def parquet_bytes(table: pa.Table) -> memoryview:
    """The table as one Parquet file in memory."""
    floats = []
    for field in table.schema:
        if pa.types.is_floating(field.type):
            floats.append(field.name)
        elif pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            floats.append(f"{field.name}.list.element")
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in table.column_names if name in _DICTIONARY],
        use_byte_stream_split=floats,
        write_statistics=True,
    )
    return memoryview(sink.getvalue())


class ContentHash:
    """sha256 over the values of one table, whatever the chunks, files and encodings they came in.

    Floats count by their bits. Each column has a hash of its values, one of where they are null, and for text and
    lists one of their lengths; `hexdigest` hashes those together with the column names and the number of rows. A column
    that came later (`Column.later`) counts only where it holds a value.
    """

    def __init__(self, table: str) -> None:
        self._columns = {name: tuple(hashlib.sha256() for _ in range(3)) for name in TABLES[table].names}
        self._schema = arrow_schema(table)
        self._empty = {column.name for column in TABLES[table].columns if column.later}
        self._rows = 0

    def update(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self._rows += batch.num_rows
            for name, (values, lengths, valid) in self._columns.items():
                kind = self._schema.field(name).type
                array = batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)
                if array.null_count < len(array):
                    self._empty.discard(name)
                valid.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
                if pa.types.is_list(array.type):
                    sizes = array.value_lengths().fill_null(0)
                    array = array.flatten()
                    lengths.update(sizes.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                elif pa.types.is_string(array.type):
                    texts = [text.encode() for text in array.fill_null("").to_pylist()]
                    lengths.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
                    values.update(b"".join(texts))
                    continue
                filled = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
                values.update(filled.to_numpy(zero_copy_only=False).tobytes())

    def hexdigest(self) -> str:
        whole = hashlib.sha256(str(self._rows).encode())
        for name, hashes in self._columns.items():
            if name in self._empty:
                continue
            whole.update(name.encode())
            for part in hashes:
                whole.update(part.digest())
        return whole.hexdigest()
