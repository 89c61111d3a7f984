"""Opening a run folder again: what it was started with, which commits stay, and what follows them and is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .folders import FINAL, RUN_FILE, Commit, check_part, read_commits, read_run_json

__all__ = ["check_resume", "reopen"]


def check_resume(folder: Path, resume: bool | int) -> bool:
    """Whether `folder` holds a run to be reopened; UsageError where `resume` does not allow what is there."""
    exists = (folder / RUN_FILE).exists()
    if isinstance(resume, bool):
        if exists and not resume:
            raise UsageError(
                f"out: expected a new folder, got {folder}, which holds a run already; resume it, remove it or choose "
                "another folder"
            )
    elif not isinstance(resume, int) or resume < 0:
        raise UsageError(f"resume: expected True, False or a number of steps from 0, got {resume!r}")
    elif resume and not exists:
        raise UsageError(
            f"resume: expected the folder of a run with {resume} steps, got {folder}, which holds none; give the "
            "folder that the run was recorded in, or start a new run"
        )
    return exists


def reopen(folder: Path, run_json: Mapping[str, Any], resume: bool | int) -> tuple[dict[str, Any], list[Commit]]:
    """The fields of run.json and the commits that stay; later ones are deleted, the last one first.

    Args:
        folder: of a run.
        run_json: what the run is to be resumed with; run_id and hash must be those of the folder.
        resume: True to resume an unfinished run after its last commit with a state, or the number of steps after which
            to resume a run, also one that has ended.

    Raises:
        UsageError: another run, one that has ended, a damaged one, or no commit has that step.
    """
    info = read_run_json(folder)
    for name in ("run_id", "hash"):
        if info.get(name) != run_json.get(name):
            raise UsageError(
                f"{name}: expected {info.get(name)!r}, as in {folder}, got {run_json.get(name)!r}; "
                "a run can only be resumed with what it was started with"
            )
    commits = read_commits(folder)
    if isinstance(resume, bool):
        if info.get("status") in FINAL:
            raise UsageError(
                f"out: expected an unfinished run to resume, got a run that is {info['status']} in {folder}; "
                "choose another folder"
            )
        kept = commits[
            : max((place + 1 for place, commit in enumerate(commits) if commit.state is not None), default=0)
        ]
    else:
        kept = [commit for commit in commits if commit.step <= resume]
        if (kept[-1].step if kept else 0) != resume:
            steps = ", ".join(str(commit.step) for commit in commits) or "none"
            raise UsageError(
                f"resume: expected the step of a commit ({steps}), got {resume}, in {folder}; resume from a checkpoint "
                "of one of these steps, or record in a new folder. Commit whenever a checkpoint is saved"
            )
    for commit in kept:
        for part in commit.parts:
            check_part(folder, part, verify=True)
    for commit in reversed(commits[len(kept) :]):
        (folder / "commits" / f"{commit.step:06d}.json").unlink()
    return info, kept
