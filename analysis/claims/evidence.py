"""What decisions are made from: the runs of a study, read from the ledger, and progress of long computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..records import Run
from .study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .decision import Decision

__all__ = ["Evidence", "Methods", "Progress", "of_user"]

Methods = Mapping[str, Mapping[int, Run]]  # method label -> seed -> a run that is complete
Progress = Callable[[str, int, int], None]  # (what, done, of how many)


class Evidence:
    """The runs that were trained for the ledger.

    Args:
        runs: Folder of the runs, one folder each.
        progress: Called by computations of more than two seconds: what is computed, how much of how many is done.
        decisions: What was decided before, by id: those that `Claim.after` names.
    """

    def __init__(
        self,
        runs: Path,
        progress: Progress = lambda what, done, total: None,
        decisions: Mapping[str, Decision] | None = None,
    ) -> None:
        self._runs, self.progress = runs, progress
        self.decisions: Mapping[str, Decision] = decisions or {}
        self._read: dict[str, Run] = {}

    def methods(self, study: Study) -> dict[str, dict[int, Run]]:
        """The complete runs of a study: method -> seed -> run. Diverged ones are in `diverged`.

        Raises:
            UsageError: a run of the study was not trained, or not to its end.
        """
        found: dict[str, dict[int, Run]] = {method: {} for method in study.methods}
        for entry in study.runs:
            run = self._run(entry.planned.run_id)
            if run.status == "complete":
                found[entry.method][entry.seed] = run
            elif run.status != "diverged":
                raise UsageError(
                    f"study {study.name}: expected runs that are finished, got {run.run_id}, which is {run.status}; "
                    "resume the ledger"
                )
        return found

    def diverged(self, study: Study) -> dict[str, list[int]]:
        """method -> seeds whose run diverged; methods without one are left out."""
        found: dict[str, list[int]] = {}
        for entry in study.runs:
            if self._run(entry.planned.run_id).status == "diverged":
                found.setdefault(entry.method, []).append(entry.seed)
        return found

    def _run(self, run_id: str) -> Run:
        if run_id not in self._read:
            folder = self._runs / run_id
            if not (folder / "run.json").exists():
                raise UsageError(f"study: expected a trained run in {folder}, got none; run the ledger again")
            self._read[run_id] = Run(folder)
        return self._read[run_id]


def of_user(runs: Sequence[Run]) -> Methods:
    """The runs of a user's experiment by method and seed, those that are complete.

    Raises:
        UsageError: two runs share method and seed, as in a grid over another field.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.status != "complete":
            continue
        seeds = found.setdefault(run.label, {})
        seed = 0 if run.seed is None else run.seed
        if seed in seeds:
            raise UsageError(
                f"on: expected one run for each method and seed, got {seeds[seed].run_id} and {run.run_id} of "
                f"{run.label} with seed {seed}; hand over the folder of one setting"
            )
        seeds[seed] = run
    return found
