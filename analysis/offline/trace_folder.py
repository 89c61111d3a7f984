"""The folder of an offline trace: what it holds already, and whether that is the same trace."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.folder_lock import LOCK_FILE
from ..common.identity import changed_parts
from ..errors import InterruptedRunError, UsageError
from ..records import Run, read_run_json
from ..records.folders import EXPERIMENT_FILE, RUN_FILE, TEMPORARY, TOKENIZER_FILE, write_json
from ..records.schema import TABLES

__all__ = ["ENGINE", "finished", "remember"]

ENGINE = "offline"
_OURS = (*TABLES, "commits", "state", "figures", "summary.md", "report.html", "error.txt", TOKENIZER_FILE)


def finished(folder: Path, info: Mapping[str, Any], *, resume: bool, force: bool) -> Run | None:
    """The complete trace of the same things that the folder holds, None where there is something to do."""
    if (folder / EXPERIMENT_FILE).exists():
        raise UsageError(f"out: {folder} holds an experiment; choose another folder")
    if not (folder / RUN_FILE).exists():
        others = [path.name for path in folder.iterdir() if path.name not in (LOCK_FILE, RUN_FILE + TEMPORARY, *_OURS)]
        if others:
            raise UsageError(
                f"out: {folder} holds something that is not a trace ({min(others)}); choose another folder"
            )
        return None
    known = read_run_json(folder)
    if known["engine"] != ENGINE:
        raise UsageError(f"out: {folder} holds a run of the engine {known['engine']}; choose another folder")
    if force:
        for name in (*_OURS, RUN_FILE):  # the last to go says whose the rest is
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        return None
    if known["hash"] != info["hash"]:
        before = known.get("trace", {}).get("identity")
        changed = (
            "; ".join(changed_parts(before, info["trace"]["identity"])) if before else "not recorded by its version"
        )
        raise UsageError(
            f"out: {folder} holds a trace of something else than was requested; what differs: {changed}. Choose "
            "another folder, delete the trace with force (--force), or show it as it is with "
            f"python -m analysis.report {folder}"
        )
    if known["status"] == "complete":
        return Run(folder)
    if not resume:
        raise InterruptedRunError(
            f"out: {folder} holds an unfinished trace of the same rollouts; resume it with resume "
            "(--resume), or start anew with force (--force)"
        )
    return None


def remember(folder: Path, trace: Mapping[str, Any], label: str) -> None:
    """Write the present objectives and label of a complete trace into its run.json."""
    known = read_run_json(folder)
    notes = known["trace"].get("notes", [])  # those of the forward pass among them
    write_json(folder / RUN_FILE, known | {"trace": dict(trace) | {"notes": notes}, "label": label})
