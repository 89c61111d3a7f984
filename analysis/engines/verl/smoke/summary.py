"""What a finished smoke run says: what was recorded of each step, and Pass@k of verl's validation dumps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ....common.tables import Cell, Column, Table
from ....records import load_trace
from .settings import Settings

__all__ = ["pass_at_k", "recorded_steps", "validation_dumps"]


def validation_dumps(folder: Path) -> list[Path]:
    """verl's validation dumps in the order of their steps; it names them by the step."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem))


def recorded_steps(settings: Settings) -> Table:
    """Rollouts, tokens and updates of each step, from the records of a run that has ended."""
    run = load_trace(settings.records)
    rollouts, tokens, updates = run.table("rollouts"), run.table("tokens"), run.table("updates")
    rows = []
    for step in sorted(int(step) for step in rollouts["step"].unique()):
        drawn = rollouts[rollouts["step"] == step]
        rows.append(
            (
                str(step + 1),
                str(len(drawn)),
                Cell(float(drawn["correct"].mean()), digits=2),
                str(int((tokens["step"] == step).sum())),
                str(int((updates["step"] == step).sum())),
            )
        )
    columns = (
        Column("verl's step", "step"),
        Column("rollouts", "rollouts"),
        Column("correct", "correct"),
        Column("tokens", "tokens"),
        Column("updates", "updates"),
    )
    return Table(f"Recorded by {settings.ranks} rank(s), run {run.status}", columns, tuple(rows), key="steps")


def pass_at_k(settings: Settings) -> str:
    """What `python -m analysis.passk` prints of the first and the last validation; nothing where there was none."""
    dumps = validation_dumps(settings.validation)
    if not dumps:
        return ""
    compared = [str(path) for path in (dumps[0], *dumps[1:][-1:])]
    command = [sys.executable, "-m", "analysis.passk", *compared]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
