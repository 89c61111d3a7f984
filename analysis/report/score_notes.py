"""What a summary says of verifiers that give numbers: scores between wrong and correct, and responses not judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from toy_models.verifiers.verifier import NOT_JUDGED

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["score_notes"]


def score_notes(runs: Mapping[str, Run]) -> list[str]:
    """One sentence for each run whose recorded responses have scores strictly between 0 and 1, and one for each with
    responses that the verifier failed on."""
    notes = []
    for run in runs.values():
        rollouts = run.table("rollouts", ["score", "correct", "verdict"])
        name = run.label if run.seed is None else f"{run.label} (seed {run.seed})"
        scores = rollouts["score"].to_numpy(dtype=float)
        known, between = np.isfinite(scores), (scores > 0) & (scores < 1)
        if between.any():
            correct = rollouts["correct"].fillna(False).to_numpy(dtype=bool)[between]
            notes.append(
                f"{name}: {between.sum():,} of {known.sum():,} recorded scores ({between.sum() / known.sum():.1%}) lie "
                f"strictly between 0 and 1; {correct.sum():,} of these ({correct.mean():.1%}) count as correct"
                f"{_threshold(run)}."
            )
        failed = int(rollouts["verdict"].fillna("").str.startswith(NOT_JUDGED).sum())
        if failed:
            notes.append(
                f"{name}: the verifier failed on {failed:,} of {len(rollouts):,} recorded responses, which count as "
                'wrong with the score 0 (task.verifier_errors = "zero"); their column verdict says why.'
            )
    return notes


def _threshold(run: Run) -> str:
    task = (run.info.get("recipe") or {}).get("task") or {}
    return f" (task.threshold = {task['threshold']:g})" if "threshold" in task else ""
