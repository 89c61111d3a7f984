"""The completions tables of a TRL run: rows that stand there twice, and steps whose rollouts were never written.

With `log_completions` GRPOTrainer writes `completions/completions_STEP.parquet` at every log. Each holds the generation
batch that was sampled last, not what was sampled since the log before. Hence

    a batch that is trained on for several steps is written at each of them, under another step, and
    with `logging_steps` above 1, batches that were sampled between two logs are in no table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

__all__ = ["repeated_rows", "tables_of_folder"]

_STEP = "step"


def tables_of_folder(folder: Path) -> list[Path]:
    """The tables of a folder `completions` that TRL wrote, by step; none where it is another folder."""
    return sorted(folder.glob("completions_*.parquet"), key=lambda path: (len(path.name), path.name))


def repeated_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[frozenset[int], list[str]]:
    """Rows that repeat the batch of the step before, by their place, and what a reader should know of the steps.

    A batch repeats another where all of its rows are equal, in the same order, but for the step.

    >>> row = {"prompt": "1", "completion": "2", "advantage": 0.5}
    >>> repeated_rows([row | {"step": 4}, row | {"step": 5}])[0]
    frozenset({1})
    """
    batches = [
        (step, [place for place, _ in block])
        for step, block in groupby(enumerate(rows), key=lambda entry: entry[1].get(_STEP))
    ]
    repeated = [
        (step, places)
        for (_, before), (step, places) in pairwise(batches)
        if _content(rows, before) == _content(rows, places)
    ]
    left_out = frozenset(place for _, places in repeated for place in places)
    return left_out, [note for note in (_repeated_note(repeated, batches), _gap_note(batches)) if note]


def _content(rows: Sequence[Mapping[str, Any]], places: Sequence[int]) -> list[str]:
    return [repr({name: value for name, value in rows[place].items() if name != _STEP}) for place in places]


def _repeated_note(repeated: Sequence[tuple[Any, list[int]]], batches: Sequence[Any]) -> str:
    if not repeated:
        return ""
    count = sum(len(places) for _, places in repeated)
    return (
        f"{count:,} rows are left out: {len(repeated)} of {len(batches)} tables repeat the one before, as TRL writes a "
        "batch again at every log of the steps that train on it. A rollout counts once, under the first step."
    )


def _gap_note(batches: Sequence[tuple[Any, list[int]]]) -> str:
    steps = sorted({step for step, _ in batches if isinstance(step, int | float)})
    gaps = sorted({int(after - before) for before, after in pairwise(steps)})
    if not gaps or gaps[-1] <= 1:
        return ""
    apart = f"{gaps[0]}" if len(gaps) == 1 else f"{gaps[0]} to {gaps[-1]}"
    return (
        f"The table is incomplete: its steps are {apart} apart ({int(steps[0])} to {int(steps[-1])}), and TRL writes "
        "at a log only the batch that it sampled last. Rollouts sampled between two logs are missing, unless each "
        "batch is trained on for that many steps. Train with logging_steps=1 to have all of them."
    )
