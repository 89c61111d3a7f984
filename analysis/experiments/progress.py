"""Live progress of an experiment on stderr: one line a run and one for all, or plain lines where no terminal is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ..recipes.recipe import PlannedRun

__all__ = ["Progress"]

_PLAIN_SECONDS = 10.0
_NUMBERS = (
    ("reward", "reward {:.2f}"),
    ("correct", "correct {:.2f}"),
    ("entropy", "H {:.2f}"),
    ("tokens_per_s", "{:,.0f} tok/s"),
)


class Progress:
    """A callback for the events of `experiment.run`, to be entered while it runs; `quiet` shows nothing.

    On a terminal lines are redrawn in place; elsewhere a run prints a line at its start, every ten seconds and at its
    end.
    """

    def __init__(self, planned: Sequence[PlannedRun], *, quiet: bool = False, console: Console | None = None) -> None:
        labels = [one.label for one in planned]
        self._titles = {one.run_id: one.label if labels.count(one.label) == 1 else one.run_id for one in planned}
        self._total = sum(one.config.steps for one in planned)
        self._quiet = quiet
        self._console = console or Console(file=sys.stderr)
        self._bars: Bars | None = None
        self._tasks: dict[str | None, TaskID] = {}
        self._printed: dict[str | None, float] = {}
        self._steps: dict[str, int] = {}
        self._begun = time.monotonic()

    def __enter__(self) -> Progress:
        if not self._quiet and self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("{task.fields[phase]:<9}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
            self._tasks["all"] = self._bars.add_task("all runs", total=self._total, phase="", numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self._quiet:
            return
        run_id = event["run_id"]
        if run_id is not None and "step" in event:
            self._steps[run_id] = event["step"]
        if self._bars is not None:
            self._draw(self._bars, run_id, event)
        elif self._due(run_id, event):
            self._console.print(self._line(event), highlight=False, markup=False, soft_wrap=True)

    def _draw(self, bars: Bars, run_id: str | None, event: dict[str, Any]) -> None:
        if run_id not in self._tasks:
            self._tasks[run_id] = bars.add_task(self._title(event), total=event.get("steps"), phase="", numbers="")
        task = self._tasks[run_id]
        bars.update(task, phase=event["phase"], total=event.get("steps"))
        if numbers := event.get("note") or _numbers(event):
            bars.update(task, numbers=numbers)
        if "step" in event:
            bars.update(task, completed=event["step"])
        bars.update(self._tasks["all"], completed=sum(self._steps.values()))

    def _due(self, run_id: str | None, event: dict[str, Any]) -> bool:
        now = time.monotonic()
        if "step" in event and now - self._printed.get(run_id, -_PLAIN_SECONDS) < _PLAIN_SECONDS:
            return False
        self._printed[run_id] = now
        return True

    def _line(self, event: dict[str, Any]) -> str:
        parts = [self._title(event), str(event["phase"])]
        if "step" in event:
            parts.append(f"{event['step']}/{event['steps']}")
        parts += [text for text in (_numbers(event), self._left(event), event.get("error"), event.get("note")) if text]
        return "  ".join(parts)

    def _title(self, event: dict[str, Any]) -> str:
        return self._titles.get(event["run_id"], event["label"])

    def _left(self, event: dict[str, Any]) -> str:
        done, total = event.get("step", 0), event.get("steps", 0)
        if not 0 < done < total:
            return ""
        return f"{(time.monotonic() - self._begun) * (total - done) / done:.0f} s left"


def _numbers(event: dict[str, Any]) -> str:
    return "  ".join(text.format(event[name]) for name, text in _NUMBERS if event.get(name) is not None)
