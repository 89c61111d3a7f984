"""The digest: the same for the same rows however they were written, another for any other rows."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis.records import RunWriter, digest, load_trace
from analysis.records.encoding import ContentHash, record_batch
from analysis.records.schema import TABLES
from tests.records.rows import RUN_JSON, some_rows


def written(folder: Path, tables: dict[str, dict[str, list[Any]]], chunks: list[int]) -> str:
    """The digest of the rows, appended and committed in pieces of the given ends."""
    writer = RunWriter(folder, run_json=RUN_JSON)
    for step, (low, high) in enumerate(zip([0, *chunks[:-1]], chunks, strict=True)):
        for name, columns in tables.items():
            writer.append(name, {key: values[low:high] for key, values in columns.items()})
        writer.commit(step, {})
    return digest(folder)


@pytest.fixture
def tables() -> dict[str, dict[str, list[Any]]]:
    return {name: some_rows(name, 12, seed=11) for name in TABLES}


def test_chunks_do_not_matter(tmp_path: Path, tables: dict[str, dict[str, list[Any]]]) -> None:
    whole = written(tmp_path / "a", tables, [12])
    assert written(tmp_path / "b", tables, [1, 2, 7, 12]) == whole
    assert written(tmp_path / "c", tables, [5, 5, 12]) == whole
    assert digest(load_trace(tmp_path / "a")) == whole


def test_timings_and_run_json_do_not_matter(tmp_path: Path, tables: dict[str, dict[str, list[Any]]]) -> None:
    whole = written(tmp_path / "a", tables, [12])
    tables["timings"] = some_rows("timings", 5, seed=99)
    assert written(tmp_path / "b", tables, [12]) == whole


def content(table: str, rows: dict[str, list[Any]]) -> str:
    hashed = ContentHash(table)
    hashed.update([record_batch(table, rows)])
    return hashed.hexdigest()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_counts(table: str) -> None:
    """Another value, and where it may be a gap, in one row of each column in turn."""
    rows, other = some_rows(table, 12, seed=11), some_rows(table, 12, seed=12, nulls=False)
    seen = [content(table, rows)]
    for column in TABLES[table].columns:
        row = next(i for i, v in enumerate(rows[column.name]) if v is not None and v != other[column.name][i])
        for change in [other[column.name][row], *([None] if column.null else [])]:
            changed = copy.deepcopy(rows)
            changed[column.name][row] = change
            seen.append(content(table, changed))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("table", "column", "one", "two"),
    [
        ("prompts", "token_ids", [[1, 2], [3]], [[1], [2, 3]]),
        ("prompts", "text", ["ab", "c"], ["a", "bc"]),
        ("prompts", "answer", ["", "a"], [None, "a"]),
        ("prompts", "n_solutions", [0, 1], [None, 1]),
        ("tokens", "top_probs", [[], [0.5]], [None, [0.5]]),
        ("updates", "loss", [0.0, 1.0], [-0.0, 1.0]),
        ("updates", "loss", [1.0, 1.0], [1.0, float(np.nextafter(1.0, 2.0))]),
    ],
)
def test_boundaries_gaps_and_last_bits_count(table: str, column: str, one: Any, two: Any) -> None:
    rows = some_rows(table, 2, seed=13)
    assert content(table, rows | {column: one}) != content(table, rows | {column: two})


def test_order_counts(tmp_path: Path) -> None:
    rows = some_rows("steps", 4, seed=14)
    turned = {name: values[::-1] for name, values in rows.items()}
    assert written(tmp_path / "a", {"steps": rows}, [4]) != written(tmp_path / "b", {"steps": turned}, [4])


LATER = {name: [c.name for c in table.columns if c.later] for name, table in TABLES.items()}


@pytest.mark.parametrize("table", [name for name, columns in LATER.items() if columns])
def test_files_from_before_a_column_came(tmp_path: Path, table: str) -> None:
    """Without the column they read as missing there, and have the digest of files in which it is missing throughout."""
    rows = some_rows(table, 6, seed=15) | {column: [None] * 6 for column in LATER[table]}
    whole = written(tmp_path, {table: rows}, [6])
    (commit,) = (tmp_path / "commits").glob("*.json")
    (part,) = (tmp_path / table).glob("*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(LATER[table]), part)
    stored = json.loads(commit.read_text())
    for one in stored["parts"]:
        one |= {"size": part.stat().st_size, "sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
    commit.write_text(json.dumps(stored))
    run = load_trace(tmp_path, verify=True)
    assert digest(run) == whole
    assert run.table(table)[LATER[table]].isna().all(axis=None)
    rows[LATER[table][0]][2] = some_rows(table, 6, seed=15, nulls=False)[LATER[table][0]][2]
    assert written(tmp_path / "set", {table: rows}, [6]) != whole


@pytest.mark.parametrize("table", [name for name, columns in LATER.items() if columns])
def test_a_column_that_came_later_leaves_the_digests_of_before(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing throughout, it counts as if the schema did not have it."""
    rows = some_rows(table, 6, seed=16) | {column: [None] * 6 for column in LATER[table]}
    batch = record_batch(table, rows)
    now = ContentHash(table)
    now.update([batch])
    kept = tuple(column for column in TABLES[table].columns if not column.later)
    monkeypatch.setitem(TABLES, table, dataclasses.replace(TABLES[table], columns=kept))
    before = ContentHash(table)
    before.update([batch.select([column.name for column in kept])])
    assert now.hexdigest() == before.hexdigest()
