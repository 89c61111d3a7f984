"""The summary of the parts of a JVP against sums written out, and that parts add up however they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import UsageError
from analysis.records import Run, RunWriter, load_trace, shares_summary
from analysis.records.schema import BUCKETS, SHARES
from analysis.records.step_shares import VIEWS, view
from tests.records.rows import RUN_JSON, some_rows

UPDATES, EACH = 6, 12  # contexts of each update: four of each sign, four of the panel


def write(folder: Path, *, seed: int = 0, known: range = range(0, UPDATES, 2)) -> tuple[Run, dict[str, np.ndarray]]:
    """A run whose JVPs were recorded by part at the updates `known`, and the numbers that it holds."""
    rng = np.random.default_rng(seed)
    n = UPDATES * EACH
    parts = rng.normal(size=(2, n, len(SHARES))).astype(np.float32).astype(float)
    whole = parts.sum(2)
    update = np.repeat(np.arange(UPDATES), EACH)
    recorded = np.isin(update, list(known))
    after = np.float32(whole + 0.5 * rng.normal(size=(2, n)))
    rows: dict[str, Any] = some_rows("flows", n, seed=0, nulls=False)
    for name in TABLE_BUCKETS:
        rows[name] = [[0.1] * (len(BUCKETS) + 1)] * n
    rows |= {"update": update.tolist(), "context": list(range(n)), "weight": [None] * n, "token_bucket": [0] * n}
    for i, name in enumerate(("log_prob", "entropy")):
        rows |= {
            f"{name}_before": [0.0] * n,
            f"{name}_after": after[i].tolist(),
            f"jvp_d{name}": whole[i].tolist(),
            f"jvp_d{name}_shares": [p.tolist() if r else None for p, r in zip(parts[i], recorded, strict=True)],
        }
    contexts: dict[str, Any] = some_rows("contexts", n, seed=0, nulls=False)
    kind = np.tile(["batch"] * 8 + ["panel"] * 4, UPDATES)
    sign = np.tile([1] * 4 + [-1] * 4 + [0] * 4, UPDATES)
    contexts |= {"context": list(range(n)), "kind": kind.tolist(), "sign": [int(s) or None for s in sign]}
    writer = RunWriter(folder, run_json=RUN_JSON)
    writer.append("contexts", contexts)
    writer.append("flows", rows)
    writer.commit(1, {})
    run = load_trace(folder)
    assert isinstance(run, Run)
    numbers = {"parts": parts, "realised": after.astype(float), "update": update, "kind": kind, "sign": sign}
    return run, numbers | {"recorded": recorded}


TABLE_BUCKETS = ("bucket_mass_before", "bucket_mass_after", "bucket_mass_sq_before", "jvp_bucket")


def test_against_sums_written_out(tmp_path: Path) -> None:
    run, numbers = write(tmp_path)
    summary = run.shares_summary(ranges=2)
    assert summary[["first_update", "last_update"]].drop_duplicates().to_numpy().tolist() == [[0, 2], [3, 5]]
    assert len(summary) == 2 * 3 * 2 * (4 + 5)
    for row in summary.to_dict("records"):
        in_range = (numbers["update"] >= row["first_update"]) & (numbers["update"] <= row["last_update"])
        sign = 0 if row["kind"] == "panel" else row["sign"]
        at = np.flatnonzero(numbers["recorded"] & in_range & (numbers["sign"] == sign))
        quantity = ("log_prob", "entropy").index(row["quantity"])
        by_name = dict(zip(SHARES, numbers["parts"][quantity][at].T, strict=True))
        if row["view"] == "source":
            parts = {s: by_name[f"{s}_now"] + by_name[f"{s}_past"] for s in ("pos", "neg", "reg", "decay")}
        else:
            parts = {s: by_name[f"{s}_now"] for s in ("pos", "neg", "reg", "decay")}
            parts["history"] = sum(by_name[f"{s}_past"] for s in ("pos", "neg", "reg", "decay"))
        x, j = parts[row["part"]], sum(by_name.values())
        realised = numbers["realised"][quantity][at]
        expected = {
            "n": len(at),
            "realised_mean": realised.mean(),
            "realised_median_abs": np.median(abs(realised)),
            "jvp_mean": j.mean(),
            "jvp_r2": 1 - ((realised - j) ** 2).mean() / realised.var(),
            "jvp_slope": (realised @ j) / (j @ j),
            "mean": x.mean(),
            "net": x.sum() / j.sum(),
            "projected": (x @ j) / (j @ j),
            "absolute": abs(x).sum() / sum(abs(values).sum() for values in parts.values()),
        }
        for name, value in expected.items():  # jvp is recorded as float32, and net divides by what may nearly cancel
            assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_shares_of_a_view_add_to_one(tmp_path: Path) -> None:
    summary = shares_summary(write(tmp_path, seed=3)[0])
    groups = summary.groupby(["kind", "sign", "quantity", "view"], dropna=False)
    assert len(groups) == 3 * 2 * 2
    for name in ("net", "projected", "absolute"):
        np.testing.assert_allclose(groups[name].sum(), 1, rtol=1e-9)
    np.testing.assert_allclose(groups["mean"].sum(), groups["jvp_mean"].first(), rtol=1e-4, atol=1e-6)


def test_each_view_takes_every_part_once() -> None:
    for parts in VIEWS.values():
        assert sorted(member for members in parts.values() for member in members) == sorted(SHARES)
    only = np.eye(len(SHARES))[SHARES.index("neg_past")][None]
    assert {name for name, values in view(only, "source").items() if values[0]} == {"neg"}
    assert {name for name, values in view(only, "time").items() if values[0]} == {"history"}


def test_where_no_parts_were_recorded(tmp_path: Path) -> None:
    run, _ = write(tmp_path / "a", known=range(0))
    assert run.shares_summary().empty
    assert list(run.shares_summary().columns) == list(write(tmp_path / "b")[0].shares_summary().columns)
    RunWriter(tmp_path / "c", run_json=RUN_JSON).commit(0, {})
    empty = load_trace(tmp_path / "c")
    assert isinstance(empty, Run)
    assert empty.shares_summary().empty
    with pytest.raises(UsageError, match=r"ranges: expected at least 1, got 0"):
        empty.shares_summary(ranges=0)
