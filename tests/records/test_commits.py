"""Interruption at any moment: readers see whole commits, and going on gives what an uninterrupted run gives."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import UsageError
from analysis.records import Run, RunWriter, digest, load_trace
from analysis.records.folders import write_durably
from tests.records.breaking import Killed, break_at
from tests.records.rows import RUN_JSON, some_rows

STEPS = 4
WRITTEN = ("rollouts", "timings")  # texts, lists and gaps; apart from identity


def work(folder: Path, *, resume: bool = False, steps: int = STEPS, pause: float = 0.0) -> None:
    """A run whose rows follow from its step and from a generator that is part of the resume state."""
    writer = RunWriter(folder, run_json=RUN_JSON, resume=resume)
    generator = torch.Generator().manual_seed(0)
    start = 0
    if (stored := writer.resume_state()) is not None:
        start, state = stored
        generator.set_state(state["generator"])
    for step in range(start, steps):
        seed = int(torch.randint(2**31, (1,), generator=generator))
        for table in WRITTEN:
            writer.append(table, some_rows(table, 3 + step % 2, seed))
        time.sleep(pause)
        writer.commit(step + 1, {"generator": generator.get_state(), "weights": {"w": torch.arange(3.0)}})
    writer.finish("complete")


def count(folder: Path) -> int:
    """Committed steps, after checking that every table holds exactly theirs."""
    run = load_trace(folder, verify=True)
    assert isinstance(run, Run)
    steps = run.committed_step or 0
    for table in WRITTEN:
        rows = sum(3 + step % 2 for step in range(steps))
        assert run.rows(table) == len(run.table(table)) == rows
    return steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    work(folder)
    return folder


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of fsyncs would take most of the time and could not be told from their absence."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def calls_and_digest(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """How many breakable calls a run of two commits makes, and its records."""
    folder = tmp_path_factory.mktemp("count") / "run"
    with pytest.MonkeyPatch.context() as patch:
        calls = break_at(patch, 10**9, Killed())
        work(folder, steps=2)
        total = calls()
    assert total > 2 * 5 * (len(WRITTEN) + 2)
    return total, digest(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("unsynced")
def test_every_moment_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls_and_digest: tuple[int, str]
) -> None:
    """Ended at call k of open, write, fsync, replace or unlink, for every k of a run of two commits; then resumed."""
    total, whole = calls_and_digest
    seen = []
    for at in range(total):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            break_at(patch, at, Killed())
            with pytest.raises(Killed):
                work(folder, steps=2)
        if (folder / "run.json").exists():
            seen.append(count(folder))
            if load_trace(folder).status == "complete":
                continue
        work(folder, resume=True, steps=2)
        assert digest(folder) == whole
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2}


def refusal(folder: Path) -> OSError | None:
    try:
        work(folder, steps=2)
    except OSError as error:
        return error
    return None


@pytest.mark.slow
@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize(
    ("number", "lasting", "cure"),
    [
        (errno.ENOSPC, True, r"No space left on device( \([\d,]+ are free\))?; .*; free some space, then resume"),
        (errno.EDQUOT, False, r"Disk quota exceeded( \([\d,]+ are free\))?; .*; free some space, then resume"),
        (errno.EIO, False, r"Input/output error; .*; fix the cause, then resume"),
    ],
    ids=["full for good", "quota", "fault"],
)
def test_every_refusal_of_the_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls_and_digest: tuple[int, str],
    number: int,
    lasting: bool,
    cure: str,
) -> None:
    """As above, but the call is refused, and all after it where the refusal lasts; nothing committed is lost."""
    total, whole = calls_and_digest
    for at in range(total):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            break_at(patch, at, OSError(number, os.strerror(number)), lasting=lasting)
            told = refusal(folder)
        if told is None:  # the state of a complete run, which nobody needs, could not be deleted
            assert load_trace(folder).status == "complete"
        else:
            assert told.errno == number
            assert re.search(rf"(cannot write {folder}/\S+?(, [\d,]+ bytes)?: |] ){cure}$", str(told))
            assert re.search(r"; (nothing is committed yet|steps before [12] are safe); ", str(told))
        if (folder / "run.json").exists():
            count(folder)
        assert lasting or not list(folder.rglob("*.tmp"))
        if not (folder / "run.json").exists() or load_trace(folder).status != "complete":
            work(folder, resume=True, steps=2)
        assert digest(folder) == whole
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)


@pytest.mark.parametrize("at", [0, 4, 9, 15, 16, 17, 18, 19, 20, 21])
def test_a_failed_commit_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Path, at: int
) -> None:
    writer = RunWriter(tmp_path / "run", run_json=RUN_JSON)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        seed = int(torch.randint(2**31, (1,), generator=generator))
        for table in WRITTEN:
            writer.append(table, some_rows(table, 3 + step % 2, seed))
        if step == 2:
            with monkeypatch.context() as patch:
                break_at(patch, at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
                with pytest.raises(OSError, match=r"No space left .*; steps before [23] are safe; free some space"):
                    writer.commit(step + 1, {})
            assert count(tmp_path / "run") in (2, 3)
        if (writer.committed_step or 0) == step:
            writer.commit(step + 1, {})
    writer.finish("complete")
    assert digest(tmp_path / "run") == digest(uninterrupted)


def test_leftovers_are_ignored_and_deleted_on_resumption(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    writer.append("steps", some_rows("steps", 2, seed=0))
    writer.commit(1, {})
    part = tmp_path / "steps/000000-000001.r0.parquet"
    leftovers = [
        shutil.copy(part, part.with_name("000001-000002.r0.parquet")),
        shutil.copy(part, part.with_name("000000-000001.r0.parquet.tmp")),
        shutil.copy(tmp_path / "state/000001.pt", tmp_path / "state/000002.pt"),
        shutil.copy(tmp_path / "commits/000001.json", tmp_path / "commits/000002.json.tmp"),
        shutil.copy(tmp_path / "run.json", tmp_path / "run.json.tmp"),
    ]
    assert len(load_trace(tmp_path, verify=True).table("steps")) == 2
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/model").write_text("not of the store")
    RunWriter(tmp_path, run_json=RUN_JSON, resume=True)
    assert not any(path.exists() for path in leftovers)
    assert part.exists()
    assert (tmp_path / "checkpoints/model").exists()


def test_kill_dash_nine(tmp_path: Path, uninterrupted: Path) -> None:
    """SIGKILL at random moments, each followed by a resumption, until the run is through."""
    context = multiprocessing.get_context("fork")
    # a run pauses for 40 s in all until it was killed twice, so that these kills cannot come too late
    delays = np.random.default_rng(5).uniform(0.2, 1.0, size=20) * [0.05, 0.05, *[0.25] * 18]
    folder, kills = tmp_path / "run", 0
    for delay in delays:
        pause = 0.03 if kills >= 2 else 10.0
        process = context.Process(target=work, args=(folder,), kwargs={"resume": True, "pause": pause})
        process.start()
        process.join(delay)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if (folder / "run.json").exists():
            count(folder)
            if load_trace(folder).status == "complete":  # it may still have been on its way out
                break
    else:
        work(folder, resume=True)
    assert kills >= 2
    assert digest(folder) == digest(uninterrupted)


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """A real refusal of the operating system."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        writer = RunWriter(tmp_path, run_json=RUN_JSON)
        writer.append("steps", some_rows("steps", 3, seed=0))
        writer.commit(1, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        writer.append("tokens", some_rows("tokens", 2_000, seed=0))
        try:
            writer.commit(2, {})
        except OSError as error:
            send.send(str(error))

    process = context.Process(target=child)
    process.start()
    process.join()
    assert "bytes: File too large; steps before 1 are safe; fix the cause, then resume" in receive.recv()
    run = load_trace(tmp_path, verify=True)
    assert isinstance(run, Run)
    assert (run.committed_step, run.rows("steps"), run.rows("tokens")) == (1, 3, 0)


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"out: expected a folder that can be written, got .*Not a directory.*--out"):
        RunWriter(tmp_path / "file" / "run", run_json=RUN_JSON)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"out: expected a folder that can be written, got .*Permission denied"):
        RunWriter(tmp_path / "run", run_json=RUN_JSON)


def test_resuming_needs_the_same_unfinished_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    writer.commit(1, {"n": 3})
    with pytest.raises(
        UsageError,
        match=r"out: expected a new folder, got .*, which holds a run already; resume it, remove it or",
    ):
        RunWriter(tmp_path, run_json=RUN_JSON)
    with pytest.raises(UsageError, match=r"hash: expected 'abc', as in .*, got 'other'; a run can only be resumed"):
        RunWriter(tmp_path, run_json=RUN_JSON | {"hash": "other"}, resume=True)
    again = RunWriter(tmp_path, run_json=RUN_JSON, resume=True)
    assert again.resume_state() == (1, {"n": 3})
    assert again.info["created"] == writer.info["created"]
    with pytest.raises(UsageError, match=r"step: expected more than 1, that of the last commit, got 1"):
        again.commit(1, {})
    again.append("steps", some_rows("steps", 1, seed=0))
    with pytest.raises(UsageError, match=r"finish: expected no rows that are not committed, got some of steps"):
        again.finish("complete")
    again.finish("diverged")
    with pytest.raises(UsageError, match=r"expected an unfinished run to resume, got a run that is diverged"):
        RunWriter(tmp_path, run_json=RUN_JSON, resume=True)


def test_only_the_last_state_is_kept_and_none_when_complete(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    assert writer.resume_state() is None
    for step in (0, 1, 5):
        writer.commit(step, {"step": step})
        assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{step:06d}.pt"]
    writer.finish("interrupted")
    assert RunWriter(tmp_path, run_json=RUN_JSON, resume=True).resume_state() == (5, {"step": 5})
    writer.finish("complete")
    assert not list((tmp_path / "state").iterdir())
    assert load_trace(tmp_path, verify=True).status == "complete"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_files_are_named(tmp_path: Path, uninterrupted: Path) -> None:
    def fresh() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return Path(shutil.copytree(uninterrupted, tmp_path / "run"))

    part = "rollouts/000001-000002.r0.parquet"
    folder = fresh()
    (folder / part).write_bytes((folder / part).read_bytes()[:-10])
    with pytest.raises(UsageError, match=rf"expected .*{part} as it was committed, got \d+ bytes instead of \d+"):
        load_trace(folder)
    folder = fresh()
    damage(folder / part)
    load_trace(folder)
    with pytest.raises(UsageError, match=rf"expected .*{part} as it was committed, got other content"):
        load_trace(folder, verify=True)
    folder = fresh()
    (folder / part).write_bytes(b"\0" * (folder / part).stat().st_size)
    with pytest.raises(UsageError, match=r"rollouts: expected Parquet files of this schema, got .*verify=True.* finds"):
        load_trace(folder).table("rollouts")
    folder = fresh()
    (folder / part).unlink()
    with pytest.raises(UsageError, match=rf"expected .*{part}, which was committed, got no file"):
        load_trace(folder)
    folder = fresh()
    (folder / "commits/000002.json").unlink()
    with pytest.raises(UsageError, match=r"expected commit 2 before commit 3, got none"):
        load_trace(folder)
    folder = fresh()
    (folder / "commits/000002.json").write_text("{")
    with pytest.raises(UsageError, match=r"expected a commit, got a damaged .*000002.json"):
        load_trace(folder)
    (folder / "commits/000002.json").write_text('{"step": 2}')
    with pytest.raises(UsageError, match=r"expected a commit, got a damaged .*000002.json"):
        load_trace(folder)


def test_damage_is_noticed_before_a_run_goes_on(tmp_path: Path) -> None:
    work(tmp_path, steps=2)
    damage(tmp_path / "rollouts/000000-000001.r0.parquet")
    info = json.loads((tmp_path / "run.json").read_text()) | {"status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match=r"000000-000001.r0.parquet as it was committed, got"):
        RunWriter(tmp_path, run_json=RUN_JSON, resume=True)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    with monkeypatch.context() as patch:
        break_at(patch, 0, Killed())
        with pytest.raises(Killed):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert write_durably(path, b"new") == (3, hashlib.sha256(b"new").hexdigest())
    assert path.read_bytes() == b"new"


def test_a_damaged_state_is_not_resumed(tmp_path: Path) -> None:
    RunWriter(tmp_path, run_json=RUN_JSON).commit(3, {"w": torch.zeros(100)})
    damage(tmp_path / "state/000003.pt")
    with pytest.raises(UsageError, match=r"state/000003.pt as it was committed, got"):
        RunWriter(tmp_path, run_json=RUN_JSON, resume=True).resume_state()


def test_folders_that_hold_no_run(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(UsageError, match=r"got .*absent, which does not exist"):
        load_trace(tmp_path / "absent")
    with pytest.raises(
        UsageError, match=r"path: expected the folder of a run or an experiment, got .*, which is empty"
    ):
        load_trace(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds neither experiment.json nor run.json"):
        load_trace(tmp_path)
    (tmp_path / "run.json").write_text("")
    with pytest.raises(UsageError, match=r"expected a run folder, got a damaged .*run.json"):
        load_trace(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UsageError, match=r"got list instead of an object in .*run.json"):
        load_trace(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(UsageError, match=r"schema_version: expected 2, got 99 .*; read it with the version"):
        load_trace(tmp_path)
