"""Tables in every usual format read the same rows; what is not a table is refused by what it is."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from toy_models.table_files import each_row, raw_rows
from toy_models.table_formats import CsvText

ROWS = [{"prompt": "a é,\n2", "response": "b"}, {"prompt": "c", "response": 'd "e"'}]
LINES = "\n".join(map(json.dumps, ROWS)).encode()
COLUMNS = {name: [row[name] for row in ROWS] for name in ("prompt", "response")}


def _csv(separator: str) -> bytes:
    return pd.DataFrame(ROWS).to_csv(index=False, sep=separator).encode()


def _zstd(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return compressed


TEXTS = {
    "lines.jsonl": LINES,
    "blank.jsonl": b"\n \n" + LINES + b"\n\n",
    "bom.jsonl": b"\xef\xbb\xbf" + LINES,
    "windows.jsonl": LINES.replace(b"\n", b"\r\n"),
    "no_suffix": LINES,
    "array.json": json.dumps(ROWS).encode(),
    "array_under_another_name.jsonl": json.dumps(ROWS).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(),
    "pretty.json": json.dumps(ROWS, indent=1).encode(),
    "columns.json": json.dumps(COLUMNS).encode(),
    "columns_pretty.json": json.dumps(COLUMNS, indent=1).encode(),
    "columns.jsonl": json.dumps(COLUMNS).encode(),
    "wrapped.json": json.dumps({"version": 1, "samples": ROWS}, indent=1).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "cells.csv": _csv(","),
    "cells.tsv": _csv("\t"),
    "bom.csv": b"\xef\xbb\xbf" + _csv(","),
    "lines.jsonl.gz": gzip.compress(LINES, mtime=0),
    "lines.jsonl.zst": _zstd(LINES),
    "lines.jsonl.bz2": bz2.compress(LINES),
    "lines.jsonl.xz": lzma.compress(LINES),
    "zipped_without_saying.jsonl": gzip.compress(LINES, mtime=0),
    "cells.csv.gz": gzip.compress(_csv(","), mtime=0),
}


@pytest.fixture(params=["short", "long"])
def length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long array is read object by object; here every file counts as long, and is read by the three characters."""
    if request.param == "long":
        monkeypatch.setattr("toy_models.table_formats._LONG", 0)
        monkeypatch.setattr("toy_models.json_arrays.CHUNK", 3)


@pytest.mark.usefixtures("length")
@pytest.mark.parametrize("name", TEXTS)
def test_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(TEXTS[name])
    rows = raw_rows(tmp_path / name)
    assert [dict(row) for _, row in rows] == ROWS
    assert all(where.startswith(f"{name} ") for where, _ in rows)


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.PARQUET", "parquet_under_another_name", "a.feather", "a.arrow", "a.gz"]
)
def test_arrow(tmp_path: Path, name: str) -> None:
    path, table = tmp_path / name, pa.Table.from_pylist(ROWS)
    if name.endswith("feather"):
        pd.DataFrame(ROWS).to_feather(path)
    elif name.endswith("arrow"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        pd.DataFrame(ROWS).to_parquet(path)
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert raw_rows(path) == [(f"{name} row {i}", row) for i, row in enumerate(ROWS, start=1)]


def test_rows_of_lists_are_not_columns(tmp_path: Path) -> None:
    for row in (
        {"prompt_ids": [1, 2], "response_ids": [3, 4]},
        {"prompt": [{"role": "user", "content": "a"}], "response": ["b"]},
        {"prompt": ["a"], "response": ["b", "c"]},
    ):
        (tmp_path / "a.jsonl").write_text(json.dumps(row))
        assert [dict(row) for _, row in raw_rows(tmp_path / "a.jsonl")] == [row]


@pytest.mark.usefixtures("length")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"PK\x03\x04rest", r"expected rows of a table, got a zip archive \(numpy"),
        ("a.pkl", b"\x80\x04rest", r"expected rows of a table, got a pickle; load it with the program that wrote it"),
        ("a.db", b"SQLite format 3\x00", r"got an SQLite database"),
        ("a.tar", b"a" * 257 + b"ustar\x0000", r"got a tar archive; unpack it first"),
        ("a.pkl.gz", gzip.compress(b"\x80\x04rest", mtime=0), r"got a pickle"),
        ("a.bin", b"abc\x00\x01", r"expected text or Parquet, got binary data"),
        ("a.jsonl", "{}".encode("utf-16"), r"its text is UTF-16; save it as UTF-8"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], r"a.jsonl.gz cannot be read"),
        (
            "a.json",
            b'[{"a": 1},\n {"a": 2},\n]',
            r"a.json line 3: not valid JSON .*; a comma stands before it, which JSON",
        ),
        ("a.json", b'{\n"a": 1,\n}', r"a.json line 3: not valid JSON .*; a comma stands before it"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": 2,}',
            r"a.jsonl line 2: not valid JSON .*; a comma stands before it.*: \{.a.: 2,\}",
        ),
        ("a.json", b'[{"a": 1}, 3]', r"a.json row 2: expected an object \{…\}, got 3"),
        ("a.json", b'[{"a": 1}, {"b": "c]', r"a.json line 1: not valid JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', r"a.json line 1: not valid JSON"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', r"a.json line 1: expected an object \{…\} on each line, got \[\{"),
        ("a.csv", b"a,b\n1,2,3\n", r"a.csv line 2: expected 2 cells, got 3"),
        ("a.csv", b"a,a\n1,2\n", r"a.csv line 1: the column 'a' stands twice"),
        ("a.csv", b'a,b\n"x,1\n', r"a.csv line 2: not valid CSV"),
        ("a.parquet", b"", r"a.parquet cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        raw_rows(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_rows_of_a_long_array_come_one_after_another(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toy_models.table_formats._LONG", 0)
    monkeypatch.setattr("toy_models.json_arrays.CHUNK", 16)
    rows = [{"a": [i, {"b": "]},\\"}], "c": "é" * (i % 40)} for i in range(200)]
    content = json.dumps(rows, indent=1 if suffix else None, ensure_ascii=False).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": _zstd, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    path = tmp_path / f"a.json{suffix}"
    path.write_bytes(pack(content))
    found = each_row(path)
    assert next(found) == ("a.json" + suffix + " row 1", rows[0])
    assert [row for _, row in found] == rows[1:]


def test_a_long_array_that_breaks_off_gives_its_rows_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy_models.table_formats._LONG", 0)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1},\n {"a": 2},\n {"a"')
    found = each_row(path)
    assert [next(found)[1]["a"], next(found)[1]["a"]] == [1, 2]
    with pytest.raises(ValueError, match=r"a\.json line 3: not valid JSON"):
        next(found)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Is a directory; expected a file, got an empty folder"):
        raw_rows(tmp_path)
    (tmp_path / "1.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"Is a directory; expected a file, such as .*1.jsonl, one of 1 in it"):
        raw_rows(tmp_path)
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"a folder of datasets.save_to_disk: give load_from_disk"):
        raw_rows(tmp_path)


def test_broken_rows_go_to_the_caller(tmp_path: Path) -> None:
    errors: list[Any] = []
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5\n")
    assert [row["a"] for _, row in raw_rows(tmp_path / "a.csv", errors.append)] == ["1", "4"]
    assert "a.csv line 3: expected 2 cells, got 1" in str(errors[0])


def test_cells_say_numbers_and_lists() -> None:
    assert [CsvText(text).value() for text in ("1.0", "[1, 2]", "True", "null", "{'a': 1}")] == [
        1.0,
        [1, 2],
        True,
        None,
        {"a": 1},
    ]
    assert CsvText("1 +").value() == "1 +"
