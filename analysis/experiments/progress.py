"""Live progress of an experiment on stderr: the events of its runs, one line a run and one for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..common.progress import Progress
from ..recipes.recipe import PlannedRun

__all__ = ["RunProgress"]

_NUMBERS = (("reward", "reward {:.2f}"), ("entropy", "H {:.2f}"))


class RunProgress:
    """A callback for the events of `experiment.run`, to be entered while it runs; `quiet` shows nothing."""

    def __init__(self, planned: Sequence[PlannedRun], *, quiet: bool = False, console: Console | None = None) -> None:
        labels = [run.label for run in planned]
        self._titles = {run.run_id: run.label if labels.count(run.label) == 1 else run.run_id for run in planned}
        self._total = sum(run.config.steps for run in planned)
        self._steps: dict[str, int] = {}
        self._progress = Progress(quiet=quiet, console=console)

    def __enter__(self) -> RunProgress:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        run_id = event["run_id"]
        if run_id is not None and "step" in event:
            self._steps[run_id] = event["step"]
        if self._progress.live and len(self._titles) > 1:
            self._progress.show("all", "all runs", done=sum(self._steps.values()), total=self._total)
        numbers = [text.format(event[name]) for name, text in _NUMBERS if event.get(name) is not None]
        self._progress.show(
            run_id,
            self._titles.get(run_id, event["label"]),
            done=event.get("step"),
            total=event.get("steps"),
            phase=str(event["phase"]),
            detail="  ".join(part for part in (*numbers, event.get("error"), event.get("note")) if part),
            always="step" not in event,
        )
