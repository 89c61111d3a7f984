"""Run folders on shared storage, named by an fsspec URL such as `s3://bucket/runs/mine`.

A run is always written to and read from a local copy, in which a commit is whole or absent (`writer`). The copy of a
writer is brought to the URL after every commit, the files of the commit first, then the commit, and run.json last.
A reader fetches in the opposite order. So what lies at the URL is a whole number of commits at any moment, whatever is
interrupted; the file system need not rename in one step, but a JSON file that it lists must be whole, as object stores,
local disks and memory guarantee.

The URL counts: before a run is resumed, its local copy is made equal to it, and steps that were committed here but
never arrived there are made again. Copies lie in the cache folder (`RLVR_DYNAMICS_CACHE`), those for reading apart from
those for writing. One writer at a time is let in by a file at the URL (`writing`). Tested with `file://` and
`memory://`; other protocols need the package that fsspec names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from toy_models.bases.cache import cache_home

from ..common.folder_lock import LOCK_FILE
from ..errors import UsageError
from .folders import (
    EXPERIMENT_FILE,
    FINAL,
    RUN_FILE,
    TEMPORARY,
    TOKENIZER_FILE,
    PartFile,
    check_part,
    files_below,
    parse_commit,
    write_durably,
)

__all__ = [
    "RunUpload",
    "SharedFolder",
    "delete_experiment",
    "folder_or_url",
    "is_url",
    "local_copy_to_read",
    "pull_experiment",
    "pull_given",
    "pull_run",
    "push_experiment",
    "push_pages",
    "writing",
]

ERROR_FILE = "error.txt"  # why a run failed
_WRITER_FILE = ".writer.json"
_GIVEN = "given"
_RUN_EXTRAS = (TOKENIZER_FILE, ERROR_FILE)


def is_url(path: str | Path) -> bool:
    """Whether a path names shared storage.

    >>> is_url("s3://bucket/runs/mine"), is_url("runs/mine")
    (True, False)
    """
    return "://" in str(path)


def folder_or_url(text: str) -> Path | str:
    """The type of a command's argument that takes either: a `Path` would shorten the slashes of a URL."""
    return text if is_url(text) else Path(text)


class SharedFolder:
    """A folder at an fsspec URL, and where its local copies lie.

    Raises:
        UsageError: fsspec does not know the protocol, or lacks the package for it; or the URL is chained or has a sign
            that fsspec reads as a pattern.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        protocol, _, path = self.url.partition("://")
        if not path or "::" in url or any(sign in url for sign in "*?[]") or ".." in path.split("/"):
            raise UsageError(
                f"out: expected a plain URL such as s3://bucket/folder, got {url!r}; name a folder in full"
            )
        try:
            self._files, self._root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"out: expected the URL of storage that fsspec reaches, got {url!r}: {error}") from error
        self._place = Path(protocol, *(quote(part, safe=" ") for part in path.split("/") if part))

    def copy(self, use: Literal["reading", "writing"]) -> Path:
        """The folder of the local copy; that of a folder inside lies inside."""
        return cache_home() / "storage" / use / self._place

    def inside(self, name: str) -> SharedFolder:
        """A folder in this one."""
        return SharedFolder(f"{self.url}/{name}")

    @property
    def parent(self) -> SharedFolder:
        """The folder that holds this one."""
        return SharedFolder(self.url.rpartition("/")[0])

    def names(self, folder: str = "") -> list[str]:
        """The names of what lies in a folder of this one; none where it does not exist."""
        path = self._path(folder)
        self._files.invalidate_cache()
        try:
            found = self._files.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found if str(name).rstrip("/") != path})

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        self._files.invalidate_cache()
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file under another name first, so that it is never seen half written."""
        path = self._path(name)
        self._make_parent(path)
        self._files.pipe_file(path + TEMPORARY, data)
        self._files.mv(path + TEMPORARY, path)

    def put(self, source: Path, name: str) -> None:
        """Copy a file there; it may be seen half written, and so counts only when a commit names it."""
        path = self._path(name)
        self._make_parent(path)
        self._files.put_file(str(source), path)

    def fetch(self, part: PartFile, folder: Path) -> None:
        """Bring a committed file into the local copy, where it is not there already. UsageError where it is damaged."""
        target = folder / part.path
        with contextlib.suppress(UsageError):
            return check_part(folder, part, verify=True)
        data = self.read(part.path)
        if data is None:
            raise UsageError(
                f"expected {self.url}/{part.path}, which was committed, got no file; restore it or remove the run"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, data)
        return check_part(folder, part, verify=True)

    def remove(self, name: str) -> None:
        """Delete a file or a folder, where it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def claim(self, token: bytes) -> bytes:
        """Write the file of the writer where there is none, and return what it holds then."""
        path = self._path(_WRITER_FILE)
        self._make_parent(path)
        with contextlib.suppress(FileExistsError):
            self._files.pipe_file(path, token, mode="create")
        return self.read(_WRITER_FILE) or b""

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root.rstrip("/")

    def _make_parent(self, path: str) -> None:
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)


def pull_run(shared: SharedFolder, folder: Path, *, to_write: bool = False) -> None:
    """Make the local copy of a run equal to what is committed at the URL; interrupted, it is a whole run all the same.

    Args:
        shared: The run at the URL; where none is there, the copy is emptied.
        folder: The local copy.
        to_write: Whether the run is to be resumed: its state is fetched too. Last commits without the state to resume
            from, left by an interruption of an upload, are deleted on both sides; their steps are made again.
    """
    info = shared.read(RUN_FILE)  # first: what it says is complete by the time that the commits are read
    if info is None:
        _empty(folder)
        return _pull_extras(shared, folder)
    commits = {name: shared.read(f"commits/{name}") for name in shared.names("commits") if name.endswith(".json")}
    there = {name: data for name, data in sorted(commits.items()) if data is not None}
    state: PartFile | None = None
    if to_write and json.loads(info)["status"] not in FINAL:
        states = shared.names("state")
        while there:
            name = max(there)
            state = parse_commit(json.loads(there[name]), shared.url).state
            if state is not None and state.path.rpartition("/")[2] in states:
                break
            shared.remove(f"commits/{name}")
            del there[name]
            state = None
    for path in reversed(list(files_below(folder / "commits"))):
        if there.get(path.name) != path.read_bytes():
            path.unlink()
    (folder / "commits").mkdir(parents=True, exist_ok=True)
    for name, data in there.items():
        for part in parse_commit(json.loads(data), shared.url).parts:
            shared.fetch(part, folder)
        if not (folder / "commits" / name).exists():
            write_durably(folder / "commits" / name, data)
    if state is not None:
        shared.fetch(state, folder)
    _pull_extras(shared, folder)
    write_durably(folder / RUN_FILE, info)
    return None


def _pull_extras(shared: SharedFolder, folder: Path) -> None:
    for name in _RUN_EXTRAS:
        if (extra := shared.read(name)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(folder / name, extra)


class RunUpload:
    """Brings what is new in the local copy of a run to its URL; called after every step, it mostly finds nothing.

    Args:
        shared: The run at the URL.
        folder: The local copy, equal to it (`pull_run`).
    """

    def __init__(self, shared: SharedFolder, folder: Path) -> None:
        self._shared, self._folder = shared, folder
        self._there = set(shared.names("commits"))
        self._info = shared.read(RUN_FILE)

    def __call__(self) -> None:
        """Upload new commits and run.json, in this order; then delete the states that nothing resumes from."""
        path = self._folder / RUN_FILE
        if not path.exists():
            return
        info = path.read_bytes()  # before the commits are listed, since it must not say more than they do
        status = json.loads(info)["status"]
        state: str | None = None
        for commit_path in files_below(self._folder / "commits"):
            if commit_path.name in self._there or not commit_path.name.endswith(".json"):
                continue
            data = commit_path.read_bytes()
            commit = parse_commit(json.loads(data), str(commit_path))
            for part in commit.parts:
                self._shared.put(self._folder / part.path, part.path)
            if commit.state is not None and (self._folder / commit.state.path).exists():
                state = commit.state.path
                self._shared.put(self._folder / state, state)
            self._shared.write(f"commits/{commit_path.name}", data)
            self._there.add(commit_path.name)
        if info != self._info:
            extras = [name for name in _RUN_EXTRAS if (self._folder / name).exists()]
            checkpoints = [file for file in (self._folder / "checkpoints").rglob("*") if file.is_file()]
            for file in [*(self._folder / name for name in extras), *(checkpoints if status in FINAL else [])]:
                self._shared.put(file, file.relative_to(self._folder).as_posix())
            self._shared.write(RUN_FILE, info)
            self._info = info
        if state is not None or status == "complete":
            for name in self._shared.names("state"):
                if status == "complete" or f"state/{name}" != state:
                    self._shared.remove(f"state/{name}")


def pull_experiment(shared: SharedFolder, folder: Path) -> None:
    """Make the local copy of an experiment equal to what is committed at the URL; empty where nothing is there.

    Raises:
        UsageError: Other files lie there, or a run is damaged.
    """
    info = shared.read(EXPERIMENT_FILE)
    if info is None:
        if others := set(shared.names()) - {_WRITER_FILE, _GIVEN}:
            raise UsageError(
                f"out: {shared.url} holds files that are not an experiment ({', '.join(sorted(others)[:3])}); choose "
                "another URL with --out"
            )
        return _empty(folder)
    run_ids = [run["run_id"] for run in json.loads(info)["runs"]]
    pull_given(shared, folder)
    for run_id in run_ids:
        pull_run(shared.inside(run_id), folder / run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / EXPERIMENT_FILE, info)
    return None


def push_experiment(shared: SharedFolder, folder: Path) -> None:
    """Bring experiment.json, and before it the pickled objects, from the local copy of an experiment to its URL."""
    for path in files_below(folder / _GIVEN):
        shared.put(path, f"{_GIVEN}/{path.name}")
    shared.write(EXPERIMENT_FILE, (folder / EXPERIMENT_FILE).read_bytes())


def push_pages(shared: SharedFolder, folder: Path) -> None:
    """Bring what is reported of an experiment, in the local copy, to its URL: pages and figures."""
    pages = [path for path in files_below(folder) if path.name.startswith("summary.") or path.name == "report.html"]
    for path in [*pages, *folder.glob("figures/*"), *folder.glob("*/figures/*")]:
        shared.put(path, path.relative_to(folder).as_posix())


def delete_experiment(shared: SharedFolder) -> None:
    """Delete the experiment at a URL, experiment.json last: interrupted, it leaves an experiment that lacks runs."""
    for name in shared.names():
        if name not in (EXPERIMENT_FILE, _WRITER_FILE):
            shared.remove(name)
    shared.remove(EXPERIMENT_FILE)


def pull_given(shared: SharedFolder, folder: Path) -> None:
    """Fetch the pickled objects of an experiment."""
    for name in shared.names(_GIVEN):
        if (data := shared.read(f"{_GIVEN}/{name}")) is not None:
            (folder / _GIVEN).mkdir(parents=True, exist_ok=True)
            write_durably(folder / _GIVEN / name, data)


def local_copy_to_read(url: str) -> Path:
    """The folder of a run or an experiment at a URL, fetched as far as it is committed.

    Raises:
        UsageError: Neither lies there, or what lies there is damaged.
    """
    from filelock import FileLock

    shared = SharedFolder(url)
    folder = shared.copy("reading")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}{LOCK_FILE}")):
        if EXPERIMENT_FILE in (names := shared.names()):
            pull_experiment(shared, folder)
        elif RUN_FILE in names:
            pull_run(shared, folder)
        else:
            what = f"holds neither {EXPERIMENT_FILE} nor {RUN_FILE}" if names else "is empty or does not exist"
            raise UsageError(f"path: expected the URL of a run or an experiment, got {url}, which {what}")
    return folder


@contextlib.contextmanager
def writing(shared: SharedFolder) -> Iterator[None]:
    """Be the one writer of a URL: a file there says which process of which machine is.

    The file of a process of this machine that has ended counts no more. That of another machine has to be deleted by
    hand once its writer is gone. Storage that does not create a file in one step may let two writers in that start
    within the same moment.

    Raises:
        UsageError: Another process writes there.
    """
    here = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    token = json.dumps(here).encode()
    held = shared.claim(token)
    if held != token and _has_ended(held):
        shared.remove(_WRITER_FILE)
        held = shared.claim(token)
    if held != token:
        raise UsageError(
            f"out: another process is writing to {shared.url} ({held.decode(errors='replace')}); wait for it or stop "
            f"it, and where it is gone, delete {shared.url}/{_WRITER_FILE}"
        )
    try:
        yield
    finally:
        shared.remove(_WRITER_FILE)


def _has_ended(held: bytes) -> bool:
    """Whether the writer was a process of this machine that is gone."""
    try:
        writer: dict[str, Any] = json.loads(held)
        if writer["host"] != socket.gethostname():
            return False
        os.kill(int(writer["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return False


def _empty(folder: Path) -> None:
    """Delete what a copy holds, but not its lock, which the caller may hold."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
