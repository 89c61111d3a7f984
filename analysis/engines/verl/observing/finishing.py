"""The end of a training, said from outside: verl ends its workers without a word to them."""

from __future__ import annotations

from pathlib import Path

from ....errors import UsageError
from ....records.folders import RUN_FILE, read_commits, read_run_json
from ....records.writer import RunWriter
from .facts import ENGINE

__all__ = ["finish"]


def finish(out: str | Path, status: str = "complete") -> str | None:
    """Give a run that is still "running" its status, after verl's command has returned or failed.

    The engine itself completes a run after the last batch that verl announced. This is for the others: a training that
    was interrupted or stopped early. What its workers had not committed is lost, and files of an unfinished commit are
    removed. No worker may be recording any more.

    Args:
        out: the run folder, as `record.out`.
        status: complete, interrupted or diverged.

    Returns:
        The status of the run; None where the training ended before there was one.

    Raises:
        UsageError: the folder holds a run of another engine, or is damaged; an unknown status.
    """
    folder = Path(out).expanduser()
    if not (folder / RUN_FILE).exists():
        return None
    info = read_run_json(folder)
    if info.get("engine") != ENGINE:
        raise UsageError(
            f"out: expected a run of {ENGINE}, got one of {info.get('engine')} in {folder}; give the folder of "
            "record.out"
        )
    if info["status"] != "running":
        return str(info["status"])
    commits = read_commits(folder)
    writer = RunWriter(folder, run_json=info, resume=commits[-1].step if commits else 0)
    writer.finish(status)
    return status
