"""The status of a run, said from outside after verl's workers have gone."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from analysis import UsageError
from analysis.engines.verl import finish
from analysis.records.writer import RunWriter


def left_running(folder: Path, engine: str = "verl") -> Path:
    """A run with one commit, rows that were not committed and a part file of a commit that was not finished."""
    fields = dict.fromkeys(["recipe", "hash", "seed", "temperature"]) | {"run_id": folder.name, "label": "psr"}
    writer = RunWriter(folder, run_json=fields | {"engine": engine})
    row = {"phase": "update", "seconds": 1.0, "peak_rss_bytes": 0}
    writer.append("timings", {"step": 0} | row)
    writer.commit(4, {})
    writer.append("timings", {"step": 1} | row)
    (folder / "timings" / "000004-000008.r1.parquet").write_bytes(b"half")
    return folder


@pytest.mark.parametrize("status", ["complete", "interrupted"])
def test_a_run_gets_its_status_and_keeps_what_was_committed(status: str, tmp_path: Path) -> None:
    folder = left_running(tmp_path / "run")
    assert analysis.load_trace(folder).status == "running"
    assert finish(folder, status) == status
    run = analysis.load_trace(folder, verify=True)
    assert run.status == status
    assert run.table("timings")["step"].tolist() == [0]
    assert [file.name for file in (folder / "timings").iterdir()] == ["000000-000004.r0.parquet"]
    assert finish(folder, "diverged") == status  # it has one


def test_a_training_that_ended_before_its_records_has_none(tmp_path: Path) -> None:
    assert finish(tmp_path / "nothing") is None


def test_the_run_of_another_engine_is_left_alone(tmp_path: Path) -> None:
    folder = left_running(tmp_path / "run", engine="trl")
    with pytest.raises(UsageError, match=r"out: expected a run of verl, got one of trl in .*; give the folder"):
        finish(folder)
    assert analysis.load_trace(folder).status == "running"
