"""A run of `attach` that is resumed from a checkpoint holds what an uninterrupted one holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import RecordSpec, UsageError
from analysis.records import digest
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, sequences

SPEC = RecordSpec(tokens=1, chunk=2)


def train(out: Path | None, first: int, last: int, *, kill: bool = False, commit: int | None = None, **options: Any):
    """Updates `first` to `last`, whose weights follow from their number: as if restored from a checkpoint of `first`.

    Killed, the last update of a chunk that is not whole stays uncommitted, as in a process that is gone.
    """
    model = small_lm("qwen3")
    trace = analysis.attach(model, out=out, **{"record": SPEC, **options})
    trace.__enter__()
    for update in range(first, last):
        model(**batch(*sequences(seed=update % 3))).loss.backward()
        trace.step(rewards=[float(update)] * 4)
        if trace.updates == commit:
            assert trace.commit() == commit
    if kill:
        trace._tables._writer = None
    trace.__exit__(None, None, None)
    return trace


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "mine"
    train(folder, 0, 6)
    return folder


@pytest.mark.parametrize(
    ("done", "kill", "commit", "at"),
    [(5, True, None, True), (5, False, None, True), (5, True, 3, 3), (5, False, 1, 1), (5, True, 3, 0)],
    ids=["killed", "ended", "checkpoint", "ended, then an earlier checkpoint", "from the beginning"],
)
def test_a_resumed_run_holds_what_an_uninterrupted_one_holds(tmp_path, whole, done, kill, commit, at):
    out = tmp_path / "mine"
    train(out, 0, done, kill=kill, commit=commit)
    committed = analysis.load_trace(out).committed_step
    start = committed if at is True else at
    trace = train(out, start, 6, resume=at)
    assert trace.updates == 6
    assert digest(out) == digest(whole)
    run, expected = (analysis.load_trace(folder, verify=True) for folder in (out, whole))
    assert run.status == "complete"
    assert run.info["weights"] == expected.info["weights"]
    assert run.table("rollouts")["step"].tolist() == [step for step in range(6) for _ in range(4)]
    assert len(trace.records()["tokens"]) == len(run.table("tokens"))


def test_a_new_folder_is_a_new_run(tmp_path):
    train(tmp_path / "mine", 0, 1, resume=True)
    assert analysis.load_trace(tmp_path / "mine").committed_step == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "out: expected a new folder, got .*mine, which holds a run already; .* continue its run with resume="),
        ({"resume": 1}, r"resume: expected the step of a commit \(2, 3\), got 1"),
        ({"resume": 7}, r"resume: expected the step of a commit \(2, 3\), got 7"),
        ({"resume": True, "temperature": 0.5}, "temperature: expected 1.0, as in .*mine, got 0.5; resume a run with"),
        ({"resume": True, "record": RecordSpec(tokens=0.5)}, "record: expected .*'tokens': 1, .*got"),
    ],
)
def test_runs_that_cannot_be_resumed(tmp_path, options, message):
    train(tmp_path / "mine", 0, 3)
    before = digest(tmp_path / "mine")
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "mine", 3, 4, **options)
    assert digest(tmp_path / "mine") == before


def test_records_in_memory_cannot_be_committed_or_resumed():
    with pytest.raises(UsageError, match="resume: expected out=, the folder of the run to resume, got None"):
        train(None, 0, 1, resume=True)
    with pytest.raises(UsageError, match=re.escape("commit: expected a run folder, got records that stay in memory")):
        train(None, 0, 1, commit=1)
