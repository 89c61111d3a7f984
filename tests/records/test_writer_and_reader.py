"""Rows in, rows out: every table through pandas, Arrow and DuckDB, and what `append` refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from analysis import UsageError
from analysis.records import Run, RunWriter, load_trace
from analysis.records.schema import TABLES, arrow_schema
from tests.records.rows import RUN_JSON, some_rows


def write(folder: Path, **tables: dict[str, Any]) -> Run:
    writer = RunWriter(folder, run_json=RUN_JSON)
    for name, columns in tables.items():
        writer.append(name, columns)
    writer.commit(1, {})
    run = load_trace(folder)
    assert isinstance(run, Run)
    return run


def plain(value: Any) -> Any:
    """A cell of a pandas frame as the Python value that went in."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if pd.isna(value) else value


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("nulls", [True, False])
def test_round_trip(tmp_path: Path, table: str, nulls: bool) -> None:
    rows = some_rows(table, 20, seed=1, nulls=nulls)
    run = write(tmp_path, **{table: rows})
    assert run.rows(table) == 20

    arrow = run.table(table, as_="arrow")
    assert arrow.schema.equals(arrow_schema(table))
    assert arrow.to_pydict() == rows

    frame = run.table(table)
    text = ["token_text"] if "token" in rows else []
    assert list(frame.columns) == [*TABLES[table].names, *text]
    assert {name: [plain(v) for v in frame[name]] for name in frame if name not in text} == rows
    assert frame.attrs["units"] == {c.name: c.unit for c in TABLES[table].columns if c.unit}

    relation = run.table(table, as_="duckdb")
    assert relation.columns == list(rows)
    assert relation.fetchall() == list(zip(*rows.values(), strict=True))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_rows_has_its_columns_and_dtypes(tmp_path: Path, table: str) -> None:
    empty, full = write(tmp_path / "a"), write(tmp_path / "b", **{table: some_rows(table, 5, seed=2, nulls=False)})
    assert empty.table(table).dtypes.to_dict() == full.table(table).dtypes.to_dict()
    assert empty.table(table, as_="arrow").schema.equals(arrow_schema(table))
    assert empty.table(table, as_="duckdb").fetchall() == []
    assert empty.rows(table) == 0
    assert list(empty.table(table, columns=[TABLES[table].names[1]]).columns) == [TABLES[table].names[1]]


def test_gaps_leave_integers_and_booleans_what_they_are(tmp_path: Path) -> None:
    rows = some_rows("rollouts", 6, seed=3) | {"correct": [True, None, False, True, None, False]}
    frame = write(tmp_path, rollouts=rows, prompts=some_rows("prompts", 6, seed=3)).table("rollouts")
    assert frame["correct"].dtype == pd.BooleanDtype()
    assert frame["noise_flipped"].dtype == np.bool_
    assert frame["length"].dtype == np.int32
    assert load_trace(tmp_path).table("prompts")["n_solutions"].dtype == pd.Int32Dtype()


def test_columns_and_filters(tmp_path: Path) -> None:
    rows = some_rows("tokens", 40, seed=4) | {"update": list(range(40))}
    run = write(tmp_path, tokens=rows)
    expected = [r for u, r in zip(rows["update"], rows["rollout"], strict=True) if u > 30]
    either = [[("update", ">", 35)], [("update", "in", range(31, 36))]]
    for where in ([("update", ">", 30)], ds.field("update") > 30, either):
        frame = run.table("tokens", columns=["rollout", "update"], where=where)
        assert list(frame.columns) == ["rollout", "update"]
        assert frame["rollout"].tolist() == expected
        relation = run.table("tokens", columns=["rollout"], where=where, as_="duckdb")
        assert [row[0] for row in relation.fetchall()] == expected


def test_part_files_are_plain_parquet_with_the_stated_encodings(tmp_path: Path) -> None:
    write(tmp_path, tokens=some_rows("tokens", 20, seed=5), prompts=some_rows("prompts", 20, seed=5))
    tokens = tmp_path / "tokens" / "000000-000001.r0.parquet"
    assert len(pd.read_parquet(tokens)) == 20
    meta = pq.read_metadata(tokens)
    assert meta.metadata[b"schema_version"] == b"2"
    columns = {meta.row_group(0).column(i).path_in_schema: meta.row_group(0).column(i) for i in range(meta.num_columns)}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["entropy"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["bucket_mass.list.element"].encodings
    prompts = pq.read_metadata(tmp_path / "prompts" / "000000-000001.r0.parquet").row_group(0)
    by_name = {prompts.column(i).path_in_schema: prompts.column(i).encodings for i in range(prompts.num_columns)}
    assert any("DICTIONARY" in e for e in by_name["prompt_id"])
    assert not any("DICTIONARY" in e for e in by_name["text"])


def test_what_a_column_may_be(tmp_path: Path) -> None:
    base = some_rows("flows", 3, seed=6, nulls=False)
    given = base | {
        "update": 7,  # a scalar is repeated
        "weight": None,
        "context": torch.tensor([4, 5, 6]),
        "entropy_before": np.array([1.0, 2.0, 3.0]),  # float64 for float32
        "bucket_mass_before": np.arange(6, dtype=np.float32).reshape(3, 2),
        "bucket_mass_after": torch.arange(6, dtype=torch.float64).reshape(3, 2),
        "jvp_dlog_prob": np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False]),
        "top_ids": pa.array([[1], [], [2, 3]]),
        "top_dlogit": [np.array([1.0]), np.array([]), np.array([2.0, 3.0])],
    }
    del given["jvp_bucket"]
    out = write(tmp_path, flows=given).table("flows", as_="arrow").to_pydict()
    assert out["update"] == [7, 7, 7]
    assert out["weight"] == out["jvp_bucket"] == [None] * 3
    assert out["context"] == [4, 5, 6]
    assert out["entropy_before"] == [1.0, 2.0, 3.0]
    assert out["bucket_mass_before"] == out["bucket_mass_after"] == [[0, 1], [2, 3], [4, 5]]
    assert out["jvp_dlog_prob"] == [1.0, None, 3.0]
    assert out["top_ids"] == out["top_dlogit"] == [[1], [], [2, 3]]


def test_scalars_alone_make_one_row(tmp_path: Path) -> None:
    row = {name: values[0] for name, values in some_rows("steps", 1, seed=7, nulls=False).items()}
    run = write(tmp_path, steps=row | {"step": torch.tensor(3), "reward_mean": np.float64(0.5)})
    assert run.table("steps")[["step", "reward_mean"]].to_numpy().tolist() == [[3, 0.5]]


def test_nan_is_kept_and_is_not_a_gap(tmp_path: Path) -> None:
    rows = some_rows("updates", 2, seed=8) | {"kl": [float("nan"), None]}
    column = write(tmp_path, updates=rows).table("updates", as_="arrow")["kl"]
    assert column.null_count == 1
    assert np.isnan(column[0].as_py())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyzzy": [1, 2]}, r"tokens: unknown column 'xyzzy'; known: "),
        ({"entropie": [1, 2]}, r"unknown column 'entropie'; did you mean entropy"),
        ({"entropy": None}, r"expected the columns entropy, got nothing for them; they may not be null"),
        ({"entropy": [1.0, None]}, r"tokens.entropy: expected a value in every row, got 1 rows without one"),
        ({"entropy": [1.0]}, r"expected columns of one length, got .*'entropy': 1"),
        ({"token": [1.5, 2.0]}, r"tokens.token: expected int32, got other values \(double instead of int32\)"),
        ({"token": np.array([1.0, 2.0])}, r"tokens.token: expected int32"),
        ({"token": [2**40, 1]}, r"tokens.token: expected int32"),
        ({"token": [True, False]}, r"bool instead of int32"),
        ({"entropy": ["a", "b"]}, r"string instead of float"),
        ({"top_ids": [1, 2]}, r"tokens.top_ids: expected ints, got other values \(int64 instead of lists\)"),
        ({"top_ids": [[1, None], [2]]}, r"expected lists without missing entries"),
        ({"top_ids": [[1.5], [2]]}, r"tokens.top_ids: expected ints"),
    ],
)
def test_append_refuses(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    with pytest.raises(UsageError, match=message):
        writer.append("tokens", some_rows("tokens", 2, seed=9) | change)
    writer.commit(1, {})
    assert load_trace(tmp_path).rows("tokens") == 0


def test_names_are_checked(tmp_path: Path) -> None:
    run = write(tmp_path)
    with pytest.raises(UsageError, match=r"table: unknown name 'token'; did you mean tokens"):
        RunWriter(tmp_path / "x", run_json=RUN_JSON).append("token", {})
    with pytest.raises(UsageError, match=r"table: unknown name 'flow'; did you mean flows"):
        run.table("flow")
    with pytest.raises(UsageError, match=r"columns: tokens has no column 'entropi'; did you mean entropy"):
        run.table("tokens", columns=["entropi"])
    with pytest.raises(UsageError, match=r"as_: expected one of pandas, arrow, duckdb, got 'polars'"):
        run.table("tokens", as_="polars")
    with pytest.raises(UsageError, match=r"where: expected filters .* got the text .update > 3.; .*query"):
        run.table("tokens", where="update > 3")
    with pytest.raises(UsageError, match=r"where: .*updat"):
        run.table("tokens", where=[("updat", ">", 3)])
    with pytest.raises(UsageError, match=r"run_json: expected the fields label"):
        RunWriter(tmp_path / "y", run_json={k: v for k, v in RUN_JSON.items() if k != "label"})


def test_run_json(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON | {"threads": 1})
    assert load_trace(tmp_path).status == "running"
    writer.update_run_json(device="cpu")
    writer.finish("complete")
    run = load_trace(tmp_path)
    assert isinstance(run, Run)
    assert (run.run_id, run.label, run.status, run.seed) == ("psr-s0", "PSR", "complete", 0)
    assert run.recipe == {"steps": 4}
    assert run.folder == tmp_path
    assert run.info == writer.info
    assert run.info["schema_version"] == 2
    assert run.info["threads"] == 1
    assert run.info["device"] == "cpu"
    with pytest.raises(UsageError, match=r"status: expected one of running, complete, .*, got 'done'"):
        writer.finish("done")
