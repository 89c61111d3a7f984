"""A run folder resumed after the commit of a checkpoint: later commits are dropped, and nothing is counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import UsageError
from analysis.records import Run, RunWriter, digest
from analysis.records import reopening as module
from tests.records.breaking import Killed
from tests.records.rows import RUN_JSON, some_rows


def work(folder: Path, steps: int, *, resume: bool | int = False) -> RunWriter:
    writer = RunWriter(folder, run_json=RUN_JSON, resume=resume)
    for step in range(writer.committed_step or 0, steps):
        writer.append("rollouts", some_rows("rollouts", 3, step))
        writer.commit(step + 1, {})
    return writer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    work(folder, 4).finish("complete")
    return folder


@pytest.mark.parametrize("status", ["interrupted", "complete", "diverged", None])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_later_commits_are_dropped_and_none_is_counted_twice(tmp_path, whole, status, at):
    writer = work(tmp_path, 3)
    if status is not None:
        writer.finish(status)
    writer = RunWriter(tmp_path, run_json=RUN_JSON, resume=at)
    assert writer.committed_step == (at or None)
    run = Run(tmp_path, verify=True)
    assert (run.status, len(run.table("rollouts"))) == ("running", 3 * at)
    assert len(list((tmp_path / "rollouts").iterdir())) == at
    writer.finish("interrupted")
    work(tmp_path, 4, resume=True).finish("complete")
    assert digest(tmp_path) == digest(whole)


def test_a_kill_while_commits_are_dropped_leaves_a_run(tmp_path, monkeypatch):
    """The last one goes first: what is left is a whole number of commits, and the same resumption works again."""
    work(tmp_path, 4)
    plain, calls = Path.unlink, []

    def unlink(path: Path, **options: bool) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise Killed
        plain(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "unlink", unlink)
        with pytest.raises(Killed):
            RunWriter(tmp_path, run_json=RUN_JSON, resume=1)
    assert calls == ["000004.json", "000003.json"]
    assert Run(tmp_path, verify=True).committed_step == 3
    assert RunWriter(tmp_path, run_json=RUN_JSON, resume=1).committed_step == 1


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (3, r"resume: expected the step of a commit \(1, 2\), got 3, in .*; resume from a checkpoint of one of these"),
        (-1, "resume: expected True, False or a number of steps from 0, got -1"),
        ("last", "resume: expected True, False or a number of steps from 0, got 'last'"),
    ],
)
def test_steps_that_cannot_be_resumed_after(tmp_path, resume, message):
    work(tmp_path, 2)
    with pytest.raises(UsageError, match=message):
        RunWriter(tmp_path, run_json=RUN_JSON, resume=resume)
    assert Run(tmp_path, verify=True).committed_step == 2


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(
        UsageError, match=r"resume: expected the folder of a run with 2 steps, got .*, which holds none"
    ):
        RunWriter(tmp_path, run_json=RUN_JSON, resume=2)
    assert RunWriter(tmp_path, run_json=RUN_JSON, resume=0).committed_step is None
