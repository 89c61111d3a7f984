"""Several runs read as one, and folders looked at without loading what they do not need."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import UsageError
from analysis.records import (
    Experiment,
    RunWriter,
    load_trace,
    read_experiment,
    read_run_json,
    reporting,
    update_experiment,
    write_experiment,
)
from tests.records.breaking import break_at
from tests.records.rows import RUN_JSON, some_rows

RUNS = [
    {"run_id": f"{name}-s{seed}", "label": name.upper(), "seed": seed} for name in ("psr", "nsr") for seed in (0, 1)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_experiment(tmp_path, name="mine", recipe={"steps": 1}, hash="h", runs=RUNS, versions={"torch": "2"})
    for i, run in enumerate(RUNS[:3]):
        writer = RunWriter(tmp_path / str(run["run_id"]), run_json=RUN_JSON | run)
        writer.append("steps", some_rows("steps", i + 1, seed=i))
        writer.commit(1, {})
    return tmp_path


def test_tables_of_all_runs(folder: Path) -> None:
    experiment = load_trace(folder)
    assert isinstance(experiment, Experiment)
    assert list(experiment.runs) == ["psr-s0", "psr-s1", "nsr-s0"]
    assert experiment.labels == {"psr-s0": "PSR", "psr-s1": "PSR", "nsr-s0": "NSR"}
    assert (experiment.name, experiment.status, experiment.recipe) == ("mine", "running", {"steps": 1})
    frame = experiment.table("steps", columns=["step"])
    assert list(frame.columns) == ["run_id", "label", "seed", "step"]
    assert frame["run_id"].tolist() == ["psr-s0", "psr-s1", "psr-s1", "nsr-s0", "nsr-s0", "nsr-s0"]
    assert frame["seed"].tolist() == [0, 1, 1, 0, 0, 0]
    assert frame["step"].tolist() == [s for run in experiment.runs.values() for s in run.table("steps")["step"]]
    assert experiment.table("tokens").empty
    assert experiment.table("steps", as_="arrow").num_rows == 6
    with pytest.raises(UsageError, match=r"as_: expected pandas or arrow for an experiment, got 'duckdb'"):
        experiment.table("steps", as_="duckdb")


def test_a_run_by_its_id_or_its_label(folder: Path) -> None:
    experiment = load_trace(folder)
    assert isinstance(experiment, Experiment)
    assert experiment["nsr-s0"] is experiment["NSR"] is experiment.runs["nsr-s0"]
    assert list(experiment) == list(experiment.runs)
    with pytest.raises(KeyError, match=r"'PSR' has 2 seeds; choose one of psr-s0, psr-s1"):
        experiment["PSR"]
    with pytest.raises(KeyError, match=r"expected the id or the label of a run, got 'GRPO'; psr-s0 \(PSR\), psr-s1"):
        experiment.runs["GRPO"]
    assert experiment.runs.get("GRPO") is None


def test_what_a_notebook_shows(folder: Path) -> None:
    experiment = load_trace(folder)
    assert isinstance(experiment, Experiment)
    shown = experiment._repr_html_()
    assert "<td>psr-s1</td><td>PSR</td><td>1</td><td>running</td><td>1</td>" in shown
    shown = experiment["NSR"]._repr_html_()
    assert "<th>rows of steps</th><td>3</td>" in shown
    assert "tokens" not in shown  # none were recorded


def test_reports_come_from_what_is_registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(reporting, "_reporters", [])
    experiment = load_trace(folder)
    with pytest.raises(RuntimeError, match="nothing makes reports here"):
        experiment.report()
    reporting.register_reporter(lambda trace, figures, *, each_run: calls.append((trace, figures, each_run)))
    experiment.report("here", each_run=True)
    run = experiment["nsr-s0"]
    run.report()
    assert calls == [(experiment, "here", True), (run, None, False)]


def test_experiment_json(folder: Path) -> None:
    assert read_experiment(folder)["runs"] == RUNS
    update_experiment(folder, status="complete")
    info = read_experiment(folder)
    assert info["status"] == "complete"
    assert info["hash"] == "h"
    assert info["schema_version"] == 2
    with pytest.raises(UsageError, match=r"runs: expected run_id, label and seed in each, got one without seed"):
        write_experiment(folder, name="x", recipe={}, hash="h", runs=[{"run_id": "a", "label": "A"}], versions={})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_refusal_of_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """At each of open, write, fsync and replace, and fsync of the folder: the old content or, at the last, the new."""
    statuses = []
    for at in range(5):
        update_experiment(folder, status="running")
        with monkeypatch.context() as patch:
            break_at(patch, at, OSError(number, os.strerror(number)))
            with pytest.raises(OSError, match=rf"cannot write {folder}/experiment.json, [\d,]+ bytes: ") as caught:
                update_experiment(folder, status="complete")
        assert caught.value.errno == number
        assert ("are free" in str(caught.value)) == (number != errno.EIO)
        statuses.append(read_experiment(folder)["status"])
        assert not list(folder.rglob("*.tmp"))
    assert statuses == ["running"] * 4 + ["complete"]


def test_an_experiment_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        break_at(patch, 1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), lasting=True)
        with pytest.raises(OSError, match=r"experiment.json, [\d,]+ bytes: No space left on device \([\d,]+ are"):
            write_experiment(tmp_path, name="mine", recipe={}, hash="h", runs=RUNS, versions={})
    assert not (tmp_path / "experiment.json").exists()


def test_faults(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UsageError, match=r"expected an experiment folder, got a folder without"):
        read_experiment(empty)
    with pytest.raises(UsageError, match=r"expected a run folder, got a folder without"):
        read_run_json(empty)
    write_experiment(empty, name="x", recipe={}, hash="h", runs=RUNS, versions={})
    with pytest.raises(UsageError, match=r"expected an experiment with runs, got .*, where none has started yet"):
        load_trace(empty).table("steps")
    (folder / "experiment.json").write_text('{"runs"')
    with pytest.raises(UsageError, match=r"expected an experiment folder, got a damaged .*experiment.json"):
        load_trace(folder)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from analysis.records import read_experiment, read_run_json", ["torch", "pyarrow", "pandas"]),
        ("from analysis.records import load_trace, RunWriter, digest", ["torch"]),
    ],
)
def test_imports_stay_light(code: str, absent: list[str]) -> None:
    check = f"{code}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
