"""Writing a run: rows are buffered, then committed in chunks that are complete or absent after any interruption.

A commit writes one Parquet file per table, the state from which to resume, and last `commits/<step>.json` with names,
row counts and hashes. Each file is written under a temporary name, synced and renamed; the chunk exists from the moment
at which the commit itself is renamed. Readers therefore always see a whole number of commits.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import UsageError
from .encoding import Columns, parquet_bytes, record_batch
from .folders import (
    FULL,
    RUN_FILE,
    TEMPORARY,
    Commit,
    PartFile,
    check_part,
    drop_resume_state,
    files_below,
    make_folder,
    read_commits,
    read_run_json,
    write_durably,
    write_json,
)
from .schema import BUCKETS, RUN_FIELDS, RUN_STATUS, SCHEMA_VERSION, TABLES

__all__ = ["RunWriter"]


class RunWriter:
    """Writes one run folder.

    Args:
        folder: the run folder; made if it does not exist.
        run_json: the fields of run.json (`schema.RUN_FIELDS`); schema_version, bucket_edges, status, created and
            updated are filled in.
        resume: whether to resume a run of the same run_id and hash after its last commit: its run.json is kept,
            everything uncommitted is deleted, and committed files are checked by hash. Without it, a folder that holds
            a run is refused.

    Raises:
        UsageError: the folder cannot be written, holds another run or one that has ended, or is damaged.
        OSError: later, where a write fails (a full disk). Commits stay; call `commit` again or resume the run.

    Example:
        >>> import tempfile
        >>> fields = dict.fromkeys(["recipe", "hash", "seed"]) | {"run_id": "a", "label": "A", "engine": "small"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = RunWriter(folder, run_json=fields | {"temperature": 1.0})
        ...     writer.append("timings", {"step": 0, "phase": "update", "seconds": 1.0, "peak_rss_bytes": 0})
        ...     writer.commit(1, {})
        ...     writer.committed_step
        1
    """

    def __init__(self, folder: str | Path, *, run_json: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = Path(folder)
        self._buffers: dict[str, list[pa.RecordBatch]] = {}
        self._commits: list[Commit] = []
        if missing := [name for name, (_, required) in RUN_FIELDS.items() if required and name not in run_json]:
            raise UsageError(
                f"run_json: expected the fields {', '.join(missing)} as well; give them, null where unknown"
            )
        exists = (self.folder / RUN_FILE).exists()
        if exists and not resume:
            raise UsageError(
                f"out: expected a new folder, got {self.folder}, which holds a run already; resume it, remove it or "
                "choose another folder"
            )
        make_folder(self.folder)
        if exists:
            self._info = self._reopen(run_json)
        else:
            self._info = {"schema_version": SCHEMA_VERSION, "bucket_edges": list(BUCKETS), "created": _now()}
            self._info |= dict(run_json)
        for name in (*TABLES, "commits", "state"):
            make_folder(self.folder / name)
        with self._explained():
            self._delete_uncommitted()
        self.update_run_json(status="running")

    def _reopen(self, run_json: Mapping[str, Any]) -> dict[str, Any]:
        info = read_run_json(self.folder)
        for name in ("run_id", "hash"):
            if info.get(name) != run_json.get(name):
                raise UsageError(
                    f"{name}: expected {info.get(name)!r}, as in {self.folder}, got {run_json.get(name)!r}; "
                    "a run can only be resumed with what it was started with"
                )
        if info.get("status") in ("complete", "diverged"):
            raise UsageError(
                f"out: expected an unfinished run to resume, got a run that is {info['status']} in {self.folder}; "
                "choose another folder"
            )
        self._commits = read_commits(self.folder)
        for commit in self._commits:
            for part in commit.parts:
                check_part(self.folder, part, verify=True)
        return info

    @property
    def info(self) -> dict[str, Any]:
        """The current content of run.json."""
        return dict(self._info)

    @property
    def committed_step(self) -> int | None:
        """The step of the last commit."""
        return self._commits[-1].step if self._commits else None

    def append(self, table: str, columns: Columns) -> None:
        """Buffer rows of `table` for the next commit.

        Args:
            table: one of `schema.TABLES`.
            columns: values by column; `encoding.record_batch` says what a column may be. `rows` makes those of prompts,
                rollouts and tokens.

        Raises:
            UsageError: an unknown table or column, a missing value where none may be, or values of another type.
        """
        batch = record_batch(table, columns)
        if batch.num_rows:
            self._buffers.setdefault(table, []).append(batch)

    def commit(self, step: int, state: Mapping[str, Any]) -> None:
        """Make everything appended since the last commit durable, with the state after `step` steps.

        Args:
            step: number of steps made; more than at the last commit. 0, before the first step, is allowed.
            state: what is needed to resume: tensors, numbers, text and containers of them (it is read back with
                `weights_only=True`).

        Raises:
            UsageError: `step` is not more than that of the last commit.
            OSError: a write failed. The last commit stays in force, and the buffers are as they were.
        """
        previous = self.committed_step
        if step < 0 or (previous is not None and step <= previous):
            raise UsageError(
                f"step: expected more than {previous}, that of the last commit, got {step}; count steps up"
            )
        with self._explained():
            parts = []
            for table in (name for name in TABLES if name in self._buffers):
                rows = pa.Table.from_batches(self._buffers[table])
                path = f"{table}/{previous or 0:06d}-{step:06d}.r0.parquet"
                parts.append(self._write(path, parquet_bytes(rows), table, rows.num_rows))
            commit = Commit(step, previous, tuple(parts), self._write(f"state/{step:06d}.pt", _dump(state), "", 0))
            write_json(self.folder / "commits" / f"{step:06d}.json", asdict(commit))
        self._commits.append(commit)
        self._buffers.clear()
        with self._explained():
            self._delete_uncommitted()

    def _write(self, path: str, data: bytes | memoryview, table: str, rows: int) -> PartFile:
        size, sha256 = write_durably(self.folder / path, data)
        return PartFile(path, table, rows, size, sha256)

    def resume_state(self) -> tuple[int, dict[str, Any]] | None:
        """The last commit, from which to resume.

        Returns:
            (step, state) with tensors on the CPU; None where nothing is committed.
        """
        if not self._commits:
            return None
        import torch

        commit = self._commits[-1]
        assert commit.state is not None
        check_part(self.folder, commit.state, verify=True)
        return commit.step, torch.load(self.folder / commit.state.path, map_location="cpu", weights_only=True)

    def update_run_json(self, **fields: Any) -> None:
        """Set fields of run.json in one atomic rewrite.

        Raises:
            UsageError: an unknown status.
        """
        if "status" in fields and fields["status"] not in RUN_STATUS:
            raise UsageError(f"status: expected one of {', '.join(RUN_STATUS)}, got {fields['status']!r}")
        info = self._info | fields | {"updated": _now()}
        with self._explained():
            write_json(self.folder / RUN_FILE, info)
        self._info = info

    def finish(self, status: str) -> None:
        """End the run; the resume state of a complete run is deleted.

        Args:
            status: complete, interrupted or diverged. Rows that are not committed are lost.

        Raises:
            UsageError: `complete` with rows that are not committed.
        """
        if status == "complete" and self._buffers:
            raise UsageError(
                f"finish: expected no rows that are not committed, got some of {', '.join(self._buffers)}; commit them "
                "first"
            )
        self._buffers.clear()
        self.update_run_json(status=status)
        if status == "complete":
            drop_resume_state(self.folder)

    def _delete_uncommitted(self) -> None:
        keep = {part.path for commit in self._commits for part in commit.parts}
        keep |= {f"commits/{commit.step:06d}.json" for commit in self._commits}
        if self._commits and self._commits[-1].state is not None:
            keep.add(self._commits[-1].state.path)
        for name in (*TABLES, "commits", "state"):
            for path in files_below(self.folder / name):
                if f"{name}/{path.name}" not in keep:
                    path.unlink()
        (self.folder / (RUN_FILE + TEMPORARY)).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            kept = "nothing is committed yet" if not self._commits else f"steps before {self.committed_step} are safe"
            cure = "free some space" if error.errno in FULL else "fix the cause"
            raise OSError(error.errno, f"{what}; {kept}; {cure}, then resume") from error


def _dump(state: Mapping[str, Any]) -> memoryview:
    import torch

    sink = io.BytesIO()
    torch.save(dict(state), sink)
    return sink.getbuffer()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
