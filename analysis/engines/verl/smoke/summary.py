"""What a finished smoke run says: its records, Pass@k of the validation dumps, and where everything is."""

from __future__ import annotations

from pathlib import Path

from ....common.tables import Cell, Column, Table
from .settings import Settings

__all__ = ["summary_tables", "validation_dumps"]

_KS = (1, 4, 8)


def validation_dumps(folder: Path) -> list[Path]:
    """verl's validation dumps in the order of their steps; it names them by the step."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem))


def summary_tables(settings: Settings) -> list[Table]:
    """The steps that were recorded, and Pass@k before and after.

    Args:
        settings: Of a run that has ended.

    Returns:
        A table of the recorded steps and a table of Pass@k with 95% intervals over prompts.
    """
    return [_steps(settings), _pass_at_k(settings)]


def _steps(settings: Settings) -> Table:
    from ....records import load_trace

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


def _pass_at_k(settings: Settings) -> Table:
    from ....passk import pass_curves, read_graded

    first, *_, last = validation_dumps(settings.validation)
    curves = pass_curves(read_graded(first), read_graded(last))
    labels = [str(label) for label in curves.table["label"].unique()]
    rows: list[tuple[Cell | str, ...]] = []
    for k in _KS:
        at_k = curves.table[curves.table["k"] == k].set_index("label")
        cells = [
            Cell(float(at_k["value"][label]), float(at_k["low"][label]), float(at_k["high"][label]), digits=3)
            for label in labels
        ]
        rows.append((str(k), *cells))
    steps = (first.stem, last.stem)
    columns = (Column("k", "k"), *(Column(f"after step {step}", f"step_{step}") for step in steps))
    return Table(f"Pass@k of {curves.prompts} validation prompts", columns, tuple(rows), key="pass_at_k")
