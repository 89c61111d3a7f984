"""Rows per second and bytes per row of the store, on the widest table; what contexts cost around an update.

pytest benchmarks/test_store.py --benchmark-enable --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import Run, RunWriter, load_trace
from analysis.records.schema import TABLES

RUN_JSON = {
    "run_id": "r",
    "label": "R",
    "engine": "small",
    "recipe": None,
    "hash": None,
    "seed": 0,
    "temperature": 1.0,
}
ROWS = 100_000


@pytest.fixture(scope="module")
def tokens() -> dict[str, Any]:
    """A chunk of token rows as a run has them: keys in order, probabilities in [0, 1], 8 top tokens, 6 buckets."""
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for column in TABLES["tokens"].columns:
        if column.kind == "floats":
            columns[column.name] = generator.random((ROWS, 8 if column.name.startswith("top") else 6), dtype=np.float32)
        elif column.kind == "ints":
            columns[column.name] = generator.integers(0, 108, (ROWS, 8), dtype=np.int32)
        elif column.kind == "float32":
            columns[column.name] = generator.random(ROWS, dtype=np.float32)
        else:
            columns[column.name] = generator.integers(0, 108, ROWS, dtype=np.int32)
    columns |= {"update": np.arange(ROWS) // 10_000, "step": 0, "rollout": np.arange(ROWS) // 8}
    columns |= {"position": np.arange(ROWS) % 8, "epoch": 0, "minibatch": 0, "clip": np.zeros(ROWS, np.int8)}
    return columns


def write(folder: Path, tokens: dict[str, Any]) -> None:
    writer = RunWriter(folder, run_json=RUN_JSON)
    for low in range(0, ROWS, 1000):  # an update's worth at a time
        writer.append("tokens", {k: v if np.ndim(v) == 0 else v[low : low + 1000] for k, v in tokens.items()})
    writer.commit(1, {})


def test_write(benchmark: Callable[..., Any], tmp_path: Path, tokens: dict[str, Any]) -> None:
    count = iter(range(1000))
    benchmark.pedantic(lambda: write(tmp_path / str(next(count)), tokens), rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]
    size = sum(path.stat().st_size for path in (tmp_path / "0" / "tokens").iterdir())
    benchmark.extra_info |= {"rows": ROWS, "bytes_per_row": size / ROWS}  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["pandas", "arrow", "duckdb"])
def test_read(benchmark: Callable[..., Any], tmp_path: Path, tokens: dict[str, Any], form: str) -> None:
    """Mean entropy by update, from two of the columns."""
    write(tmp_path, tokens)
    run = load_trace(tmp_path)
    assert isinstance(run, Run)

    def mean_entropy() -> int:
        rows = run.table("tokens", columns=["update", "entropy"], as_=form)
        match form:
            case "pandas":
                return len(rows.groupby("update")["entropy"].mean())
            case "arrow":
                return rows.group_by("update").aggregate([("entropy", "mean")]).num_rows
        return len(rows.aggregate("mean(entropy)", '"update"').fetchall())

    assert benchmark(mean_entropy) == 10
