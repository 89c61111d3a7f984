"""Run and experiment folders as files: durable writes, run.json, experiment.json and the list of commits.

    <out>/experiment.json
    <out>/<run_id>/run.json
                   commits/<step>.json                    what is committed: file names, row counts, hashes
                   <table>/<first>-<last>.r<rank>.parquet  rows of the steps first ≤ step < last
                   state/<step>.pt                         what is needed to resume from there
                   timings/                                a table too, but never part of a run's identity
                   checkpoints/

A file becomes visible under its final name only when it is complete and on disk, and counts only when a commit names
it: readers and resumption ignore everything else. Nothing here needs torch or pyarrow.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import UsageError
from .schema import SCHEMA_VERSION

__all__ = [
    "Commit",
    "PartFile",
    "make_folder",
    "read_commits",
    "read_experiment",
    "read_json",
    "read_run_json",
    "update_experiment",
    "write_durably",
    "write_experiment",
    "write_json",
]

RUN_FILE = "run.json"
EXPERIMENT_FILE = "experiment.json"
TOKENIZER_FILE = "tokenizer.json"  # of a traced or attached model, for the text of tokens
TEMPORARY = ".tmp"
FINAL = ("complete", "diverged")  # statuses of a run that is done
FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 26  # bytes of a stream that are held before they are written


@dataclass(frozen=True)
class PartFile:
    """One committed file: path relative to the run folder, its table ("" for the state), rows, bytes and sha256."""

    path: str
    table: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """Everything recorded between the commit `previous` (None for the first) and `step`.

    `state` is what a run resumes from; a commit without one holds records alone.
    """

    step: int
    previous: int | None
    parts: tuple[PartFile, ...]
    state: PartFile | None


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; UsageError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise UsageError(
            f"out: expected a folder that can be written, got {folder} ({error.strerror}); choose another with --out"
        ) from error


class _Stream:
    """A file that is hashed as it is written, in large blocks.

    What goes wrong in `write` is raised by `end`: a writer in C++ would make another exception of it.
    """

    closed = False  # writers ask; whoever opened the file closes it

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._held = file, bytearray()
        self._failure: BaseException | None = None
        self.size, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if self._failure is None:
            self._held += data
            if len(self._held) >= _BLOCK:
                try:
                    self._drain()
                except BaseException as error:
                    self._failure = error
        return len(data)

    def flush(self) -> None:
        """Nothing: `end` writes what is left."""

    def close(self) -> None:
        """Nothing, as `flush`."""

    def end(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._drain()

    def _drain(self) -> None:
        self._file.write(self._held)
        self.digest.update(self._held)
        self.size += len(self._held)
        self._held = bytearray()


def write_durably(path: Path, data: bytes | memoryview | Callable[[BinaryIO], None]) -> tuple[int, str]:
    """Write a file so that `path` is either absent, as before or complete, also after a power cut: (bytes, sha256).

    `data` may be a function that writes into a stream, so that a large file is never in memory as a whole. OSError of
    the same errno where that fails, with what was being written and, on a full disk, how much is free.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    stream: _Stream | None = None
    try:
        with temporary.open("wb") as file:
            stream = _Stream(file)
            if callable(data):
                data(cast(BinaryIO, stream))
            else:
                stream.write(data)
            stream.end()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk wants the half-written file back
            temporary.unlink(missing_ok=True)
        free = f" ({shutil.disk_usage(path.parent).free:,} are free)" if error.errno in FULL else ""
        size = f", {len(data):,} bytes" if not callable(data) else ""
        raise OSError(error.errno, f"cannot write {path}{size}: {error.strerror or error}{free}") from error
    return stream.size, stream.digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> tuple[int, str]:
    """`write_durably` for JSON; NaN is refused, since JSON has none."""
    return write_durably(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object, or a UsageError that says `what` is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"expected {what}, got a folder without {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"expected {what}, got a damaged {path} ({error}); remove the folder") from error
    if not isinstance(value, dict):
        raise UsageError(
            f"expected {what}, got {type(value).__name__} instead of an object in {path}; remove the folder"
        )
    return value


def _check_version(info: Mapping[str, Any], path: Path) -> None:
    version = info.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"schema_version: expected {SCHEMA_VERSION}, got {version!r} in {path}; read it with the version of the "
            "library that wrote it"
        )


def read_run_json(folder: str | Path) -> dict[str, Any]:
    """The fields of run.json.

    Args:
        folder: a run folder.

    Returns:
        The fields, see `schema.RUN_FIELDS`.

    Raises:
        UsageError: the folder does not hold a run, is damaged, or has another schema version.
    """
    path = Path(folder) / RUN_FILE
    info = read_json(path, "a run folder")
    _check_version(info, path)
    return info


def write_experiment(
    folder: str | Path,
    *,
    name: str,
    recipe: Mapping[str, Any],
    hash: str,
    runs: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
    status: str = "running",
    inputs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make an experiment folder with its experiment.json.

    Args:
        folder: the experiment folder.
        name: of the recipe.
        recipe: the recipe as plain data.
        hash: of the resolved recipe.
        runs: dicts with run_id, label and seed, in order.
        versions: versions of this library and of its dependencies.
        status: running, complete, interrupted or failed.
        inputs: the files that the runs read: path, absolute or relative to the folder -> sha256.

    Returns:
        The fields of experiment.json.

    Raises:
        UsageError: the folder cannot be written, or a run lacks one of its fields.
    """
    folder = Path(folder)
    for run in runs:
        if missing := {"run_id", "label", "seed"} - run.keys():
            raise UsageError(
                f"runs: expected run_id, label and seed in each, got one without {', '.join(sorted(missing))}"
            )
    info = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "recipe": dict(recipe),
        "hash": hash,
        "status": status,
        "runs": [dict(run) for run in runs],
        "inputs": dict(inputs or {}),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(versions),
    }
    make_folder(folder)
    write_json(folder / EXPERIMENT_FILE, info)
    return info


def read_experiment(folder: str | Path) -> dict[str, Any]:
    """The fields of experiment.json.

    Args:
        folder: an experiment folder.

    Raises:
        UsageError: the folder does not hold an experiment, is damaged, or has another schema version.
    """
    path = Path(folder) / EXPERIMENT_FILE
    info = read_json(path, "an experiment folder")
    _check_version(info, path)
    return info


def update_experiment(folder: str | Path, **fields: Any) -> dict[str, Any]:
    """Set fields of experiment.json in one atomic rewrite.

    Args:
        folder: an experiment folder.
        **fields: the fields to set, such as status.

    Returns:
        The new content.

    Raises:
        UsageError: the folder does not hold an experiment.
    """
    info = read_experiment(folder) | fields
    write_json(Path(folder) / EXPERIMENT_FILE, info)
    return info


def read_commits(folder: Path) -> list[Commit]:
    """All commits of a run, by step; UsageError where one is damaged or one in between is missing."""
    commits = sorted((_read_commit(path) for path in (folder / "commits").glob("*.json")), key=lambda c: c.step)
    previous: int | None = None
    for commit in commits:
        if commit.previous != previous:
            raise UsageError(
                f"{folder}: expected commit {commit.previous} before commit {commit.step}, got none in commits/; "
                "restore it or remove the run folder"
            )
        previous = commit.step
    return commits


def _read_commit(path: Path) -> Commit:
    return parse_commit(read_json(path, "a commit"), str(path))


def parse_commit(value: Mapping[str, Any], where: str) -> Commit:
    """A commit from the JSON object of its file; UsageError, which names `where` it was, for one that is damaged."""
    try:
        parts = tuple(PartFile(**part) for part in value["parts"])
        state = PartFile(**value["state"]) if value["state"] is not None else None
        return Commit(value["step"], value["previous"], parts, state)
    except (KeyError, TypeError) as error:
        raise UsageError(f"expected a commit, got a damaged {where} ({error}); remove the folder") from error


def files_below(folder: Path) -> Iterator[Path]:
    """The plain files directly in `folder`, none where it does not exist."""
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file())


def drop_resume_state(folder: Path) -> None:
    """Delete what a complete run no longer needs; what cannot be deleted stays, and does no harm."""
    with contextlib.suppress(OSError):
        for path in files_below(folder / "state"):
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_part(folder: Path, part: PartFile, *, verify: bool) -> None:
    """UsageError where a committed file is missing or of another size; with `verify` also where its hash differs."""
    path = folder / part.path
    try:
        size = path.stat().st_size
        same = size == part.size and (not verify or _sha256(path) == part.sha256)
    except FileNotFoundError:
        raise UsageError(
            f"expected {path}, which was committed, got no file; restore it or remove the run folder"
        ) from None
    if not same:
        what = f"{size} bytes instead of {part.size}" if size != part.size else "other content"
        raise UsageError(f"expected {path} as it was committed, got {what}; restore it or remove the run folder")
