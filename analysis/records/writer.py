"""Writing a run: rows are buffered, then committed in chunks that are complete or absent after any interruption.

A commit writes one Parquet file per table, the state from which to resume, and last `commits/<step>.json` with names,
row counts and hashes. Each file is written under a temporary name, synced and renamed; the chunk exists from the moment
at which the commit itself is renamed. Readers therefore always see a whole number of commits.

Several ranks write one folder: each writes its own part files, all of them meet (`ranks.Ranks`), and rank 0 commits
what they wrote. A commit exists only when the parts of all ranks do; a rank that dies or cannot write leaves the last
commit in force.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

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
    write_durably,
    write_json,
)
from .ranks import ALONE, Ranks
from .reopening import check_resume, reopen
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
            a run is refused. A number of steps n resumes after the commit of that step instead, whatever the run's
            status: commits after it are deleted, and their resume state is gone. 0 drops all of them, or starts a run.
        ranks: the processes that write this folder. Each of them makes a writer, commits the same steps and finishes;
            all arguments but the rank are equal. Rank 0 writes run.json.

    Raises:
        UsageError: the folder cannot be written, holds another run or one that has ended, or is damaged; no commit has
            the step n.
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

    def __init__(
        self,
        folder: str | Path,
        *,
        run_json: Mapping[str, Any],
        resume: bool | int = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder = Path(folder)
        self._ranks = ranks
        self._prompts: set[str] = set()  # committed ones, where several ranks may have the same
        self._buffers: dict[str, list[pa.RecordBatch]] = {}
        self._commits: list[Commit] = []
        if missing := [name for name, (_, required) in RUN_FIELDS.items() if required and name not in run_json]:
            raise UsageError(
                f"run_json: expected the fields {', '.join(missing)} as well; give them, null where unknown"
            )
        self._info, self._commits = ranks.agree(lambda: self._open(run_json, resume))[0]
        if ranks.count > 1:
            self._prompts = self._committed_prompts()

    def __repr__(self) -> str:
        waiting = {name: sum(batch.num_rows for batch in batches) for name, batches in self._buffers.items() if batches}
        return f"RunWriter({str(self.folder)!r}, steps={self.committed_step}, uncommitted rows={waiting})"

    def _open(self, run_json: Mapping[str, Any], resume: bool | int) -> tuple[dict[str, Any], list[Commit]]:
        """Make the folder or reopen it, on rank 0."""
        if self._ranks.rank:
            return {}, []
        exists = check_resume(self.folder, resume)
        make_folder(self.folder)
        if exists:
            with self._explained():
                self._info, self._commits = reopen(self.folder, run_json, resume)
        else:
            self._info = {"schema_version": SCHEMA_VERSION, "bucket_edges": list(BUCKETS), "created": _now()}
            self._info |= dict(run_json)
        for name in (*TABLES, "commits", "state"):
            make_folder(self.folder / name)
        with self._explained():
            self._delete_uncommitted()
        self.update_run_json(status="running")
        return self._info, self._commits

    def _committed_prompts(self) -> set[str]:
        parts = [part for commit in self._commits for part in commit.parts if part.table == "prompts"]
        files = [pq.read_table(self.folder / part.path, columns=["prompt_id"]) for part in parts]
        return {name for file in files for name in file.column("prompt_id").to_pylist()}

    @property
    def info(self) -> dict[str, Any]:
        """The current content of run.json."""
        return dict(self._info)

    @property
    def committed_step(self) -> int | None:
        """The step of the last commit."""
        return self._commits[-1].step if self._commits else None

    def append(self, table: str, columns: Columns) -> None:
        """Buffer rows of `table` for the next commit. Of several ranks only one may append the same row; the same
        prompt is stored once.

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

    def commit(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Make everything appended since the last commit durable, with the state after `step` steps.

        Args:
            step: number of steps made; more than at the last commit. 0, before the first step, is allowed.
            state: what is needed to resume: tensors, numbers, text and containers of them (it is read back with
                `weights_only=True`). None: a run resumes from the last commit that has one, and makes the steps of
                later ones again.

        Raises:
            UsageError: `step` is not more than that of the last commit, or differs between ranks.
            OSError: a write failed, on this rank or another. The last commit stays in force, and the buffers of every
                rank are as they were.
        """
        previous = self.committed_step
        if step < 0 or (previous is not None and step <= previous):
            raise UsageError(
                f"step: expected more than {previous}, that of the last commit, got {step}; count steps up"
            )
        new, tables = self._to_write()
        written = self._ranks.agree(lambda: (step, self._write_parts(tables, step)))
        if others := {other for other, _ in written} - {step}:
            raise UsageError(f"step: expected the same on every rank, got {step} and {min(others)}; commit together")
        parts = [part for _, own in written for part in own]
        order = {table: place for place, table in enumerate(TABLES)}
        parts.sort(key=lambda part: order[part.table])
        commit = self._ranks.agree(lambda: self._write_commit(step, parts, state))[0]
        assert commit is not None
        self._commits.append(commit)
        self._prompts |= new
        self._buffers.clear()
        # before any rank goes on: files of the next commit are not committed either
        self._ranks.agree(self._clean_up)

    def _to_write(self) -> tuple[set[str], dict[str, pa.Table]]:
        """The buffered rows by table, without prompts of earlier commits and of lower ranks; and the new prompts."""
        tables = {table: pa.Table.from_batches(self._buffers[table]) for table in TABLES if table in self._buffers}
        if self._ranks.count == 1:
            return set(), tables
        prompts = tables.pop("prompts", None)
        own = [] if prompts is None else prompts.column("prompt_id").to_pylist()
        named = self._ranks.all(list(dict.fromkeys(own)))
        if prompts is not None:
            taken = self._prompts.union(*named[: self._ranks.rank])
            first = {name: row for row, name in reversed(list(enumerate(own))) if name not in taken}
            tables = {"prompts": prompts.take(pa.array(sorted(first.values()), pa.int64())), **tables}
        return set().union(*named), {table: rows for table, rows in tables.items() if rows.num_rows}

    def _write_parts(self, tables: Mapping[str, pa.Table], step: int) -> list[PartFile]:
        first = self.committed_step or 0
        parts = []
        with self._explained():
            for table, rows in tables.items():
                path = f"{table}/{first:06d}-{step:06d}.r{self._ranks.rank}.parquet"
                parts.append(self._write(path, parquet_bytes(rows), table, rows.num_rows))
        return parts

    def _write_commit(self, step: int, parts: list[PartFile], state: Mapping[str, Any] | None) -> Commit | None:
        """On rank 0, after all parts are written."""
        if self._ranks.rank:
            return None
        for part in parts if self._ranks.count > 1 else ():
            if not (self.folder / part.path).is_file():
                raise UsageError(
                    f"out: expected a folder that all ranks share, got {self.folder}, where {part.path} of another "
                    "rank is not seen; choose a folder on a file system of all nodes"
                )
        with self._explained():
            stored = None if state is None else self._write(f"state/{step:06d}.pt", _saved(state), "", 0)
            commit = Commit(step, self.committed_step, tuple(parts), stored)
            write_json(self.folder / "commits" / f"{step:06d}.json", asdict(commit))
        return commit

    def _clean_up(self) -> None:
        if not self._ranks.rank:
            with self._explained():
                self._delete_uncommitted()

    def _write(
        self, path: str, data: bytes | memoryview | Callable[[BinaryIO], None], table: str, rows: int
    ) -> PartFile:
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
        """Set fields of run.json in one atomic rewrite, on rank 0; the others only remember them.

        Raises:
            UsageError: an unknown status.
        """
        if "status" in fields and fields["status"] not in RUN_STATUS:
            raise UsageError(f"status: expected one of {', '.join(RUN_STATUS)}, got {fields['status']!r}")
        info = self._info | fields | {"updated": _now()}
        if not self._ranks.rank:
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
        if status == "complete" and not self._ranks.rank:
            drop_resume_state(self.folder)

    def _delete_uncommitted(self) -> None:
        keep = {part.path for commit in self._commits for part in commit.parts}
        keep |= {f"commits/{commit.step:06d}.json" for commit in self._commits}
        states = [commit.state.path for commit in self._commits if commit.state is not None]
        keep |= set(states[-1:])
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


def _saved(state: Mapping[str, Any]) -> Callable[[BinaryIO], None]:
    """Writes the state into a stream."""
    import torch

    return lambda stream: torch.save(dict(state), stream)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
