"""Shared storage in memory: what a reader and a later writer see, wherever the upload before was interrupted."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from analysis import UsageError, load_trace
from analysis.records import Run, RunWriter, digest
from analysis.records.folders import read_run_json
from analysis.records.shared_storage import RunUpload, SharedFolder, is_url, pull_run, writing
from tests.records.rows import RUN_JSON, some_rows

STEPS = 3
CHANGES = ("pipe_file", "put_file", "mv", "rm")  # what changes the storage


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become a machine of that name: its caches are its own, the storage is everybody's."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]

    def become(name: str) -> None:
        monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / name))

    become("first")
    return become


def write(url: str, rows: int = 20, steps: int = STEPS) -> None:
    """Begin or continue a run of some steps as a worker does."""
    shared = SharedFolder(url)
    folder = shared.copy("writing")
    pull_run(shared, folder, to_write=True)
    upload = RunUpload(shared, folder)
    exists = (folder / "run.json").exists()
    if exists and read_run_json(folder)["status"] == "complete":
        return
    writer = RunWriter(folder, run_json=RUN_JSON, resume=exists)
    stored = writer.resume_state()
    assert stored is None or torch.equal(stored[1]["weights"], torch.full((3,), float(stored[0])))
    for step in range(stored[0] if stored else 0, steps):
        upload()
        writer.append("tokens", some_rows("tokens", rows, step))
        writer.commit(step + 1, {"weights": torch.full((3,), step + 1.0)})
    writer.finish("complete")
    upload()


def uninterrupted(folder: Path) -> Run:
    writer = RunWriter(folder, run_json=RUN_JSON)
    for step in range(STEPS):
        writer.append("tokens", some_rows("tokens", 20, step))
        writer.commit(step + 1, {})
    writer.finish("complete")
    return Run(folder)


def interrupt(patch: pytest.MonkeyPatch, at: int) -> list[str]:
    """The change of number `at` to the storage fails, and each after it; returns the changes that were made."""
    made: list[str] = []

    def failing(name: str) -> Callable[..., Any]:
        original = getattr(MemoryFileSystem, name)

        def change(self: MemoryFileSystem, *arguments: Any, **options: Any) -> Any:
            if len(made) >= at:
                raise OSError(f"no network for {name}")
            made.append(name)
            return original(self, *arguments, **options)

        return change

    for name in CHANGES:
        patch.setattr(MemoryFileSystem, name, failing(name))
    return made


def test_what_arrives_is_what_was_written(machine: Callable[[str], None], tmp_path: Path) -> None:
    write("memory://runs/a b")
    expected = uninterrupted(tmp_path / "plain")
    machine("second")
    run = load_trace("memory://runs/a b", verify=True)
    assert isinstance(run, Run)
    assert (run.status, run.committed_step, digest(run)) == ("complete", STEPS, digest(expected))
    assert run.folder.is_relative_to(tmp_path / "second" / "storage" / "reading" / "memory")
    assert SharedFolder("memory://runs/a b").names("state") == []
    assert not [path for path in MemoryFileSystem.store if path.endswith(".tmp")]


@pytest.mark.slow
def test_wherever_the_upload_is_interrupted(
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reader sees whole commits, never fewer than before; another machine completes the run to the same records."""
    expected = digest(uninterrupted(tmp_path / "plain"))
    steps_seen, at = [], 0
    while True:
        url = f"memory://runs/{at}"
        machine(f"first-{at}")
        with monkeypatch.context() as patch:
            made = interrupt(patch, at)
            try:
                write(url)
                break
            except OSError:
                assert len(made) == at
        machine(f"second-{at}")
        if "run.json" in SharedFolder(url).names():
            run = load_trace(url, verify=True)
            assert isinstance(run, Run)
            assert run.status != "complete" or run.committed_step == STEPS
            steps_seen.append(run.committed_step or 0)
        write(url)
        assert digest(load_trace(url)) == expected
        machine(f"first-{at}")  # its copy may be ahead of what it has shared
        write(url)
        assert digest(load_trace(url)) == expected
        at += 1
    assert steps_seen == sorted(steps_seen)
    assert set(steps_seen) == set(range(STEPS + 1))
    assert at > 15


def test_what_a_copy_has_and_the_storage_lacks_is_made_again(machine: Callable[[str], None], tmp_path: Path) -> None:
    write("memory://runs/a")
    shared = SharedFolder("memory://runs/a")
    folder = shared.copy("writing")
    shared.remove("")
    shared.write("run.json", (folder / "run.json").read_bytes().replace(b"complete", b"running"))
    write("memory://runs/a")
    assert digest(load_trace("memory://runs/a")) == digest(uninterrupted(tmp_path / "plain"))


def test_a_copy_of_what_was_replaced(machine: Callable[[str], None]) -> None:
    """Both copies of the first machine follow when another one starts the run anew, with other rows and fewer steps."""
    url = "memory://runs/a"
    write(url)
    load_trace(url)
    machine("second")
    SharedFolder(url).remove("")
    write(url, rows=7, steps=STEPS - 1)
    expected = digest(load_trace(url))
    machine("first")
    assert digest(load_trace(url, verify=True)) == expected
    pull_run(SharedFolder(url), SharedFolder(url).copy("writing"), to_write=True)
    assert digest(Run(SharedFolder(url).copy("writing"), verify=True)) == expected


def test_damage_is_told(machine: Callable[[str], None]) -> None:
    write("memory://runs/a")
    shared = SharedFolder("memory://runs/a")
    (part, *_) = shared.names("tokens")
    shared.write(f"tokens/{part}", b"x")
    with pytest.raises(UsageError, match=r"as it was committed, got 1 bytes instead of"):
        load_trace("memory://runs/a")
    shared.remove(f"tokens/{part}")
    with pytest.raises(UsageError, match=r"expected memory://runs/a/tokens/.*, which was committed, got no file"):
        load_trace("memory://runs/a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "memory://nothing/here",
            "expected the URL of a run or an experiment, got .*, which is empty or does not exist",
        ),
        ("memory://other", r"which holds neither experiment\.json nor run\.json"),
        ("zzz://bucket/x", "expected the URL of storage that fsspec reaches, .*Protocol not known: zzz"),
        ("simplecache::memory://x", "expected a plain URL"),
        ("memory://x/*", "expected a plain URL"),
        ("memory://x/../y", "expected a plain URL"),
        ("memory://", "expected a plain URL"),
    ],
)
def test_refused(machine: Callable[[str], None], url: str, message: str) -> None:
    SharedFolder("memory://other").write("thesis.tex", b"x")
    with pytest.raises(UsageError, match=message):
        load_trace(url)


def test_one_writer_at_a_time(machine: Callable[[str], None]) -> None:
    shared = SharedFolder("memory://runs/a")
    with (
        writing(shared),
        pytest.raises(UsageError, match=r"another process is writing to memory://runs/a .*delete .*/\.writer\.json"),
        writing(shared),
    ):
        pass
    assert shared.names() == []


@pytest.mark.parametrize(("host", "enters"), [(socket.gethostname(), True), ("elsewhere", False)])
def test_a_writer_that_is_gone(machine: Callable[[str], None], host: str, enters: bool) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    shared = SharedFolder("memory://runs/a")
    shared.write(".writer.json", json.dumps({"host": host, "pid": pid, "token": "x"}).encode())
    if enters:
        with writing(shared):
            assert shared.names() == [".writer.json"]
        return
    with pytest.raises(UsageError, match="another process is writing"), writing(shared):
        pass


def test_paths_and_urls() -> None:
    assert [is_url(path) for path in ("s3://b/x", "file:///x", "runs/x", "C:/x", Path("runs"))] == [True, True] + [
        False
    ] * 3
