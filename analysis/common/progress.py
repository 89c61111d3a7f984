"""Progress on stderr: one bar a job on a terminal, a line every ten seconds elsewhere.

On a terminal the count and the time left come first and are never cut; what a job says of itself comes last and is
shortened to the width that is left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

__all__ = ["Progress"]

PLAIN_SECONDS = 10.0
_TITLE = 22  # characters, where there is room for them beside count and time
_COUNT_AND_TIME = 30
_BAR = 12
_NARROW = 72  # a terminal of fewer columns has no bars


@dataclass
class _Job:
    title: str
    done: int | None = None
    total: int | None = None
    first: tuple[float, int] | None = None  # when it was first counted, and at what
    printed: float = -PLAIN_SECONDS
    bar: TaskID | None = None


class Progress:
    """Progress of any number of jobs, to be entered while they run; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or Console(file=sys.stderr)
        self._jobs: dict[Hashable, _Job] = {}
        self._bars: Bars | None = None

    def __enter__(self) -> Progress:
        if not self._quiet and self._console.is_terminal:
            bar = [BarColumn(bar_width=_BAR)] if self._console.width >= _NARROW else []
            self._bars = Bars(
                TextColumn("{task.description}"),
                *bar,
                _Count(),
                TimeRemainingColumn(),
                _Detail(),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def live(self) -> bool:
        """Whether bars are drawn, rather than lines printed."""
        return self._bars is not None

    def show(
        self,
        job: Hashable,
        title: str,
        *,
        done: int | None = None,
        total: int | None = None,
        phase: str = "",
        detail: str = "",
        always: bool = False,
    ) -> None:
        """Say where a job is.

        Args:
            job: What tells jobs apart.
            title: Its name.
            done: How many steps of `total` are done; None leaves the count as it is.
            total: How many there are.
            phase: What the job does at present.
            detail: Its numbers.
            always: Print a plain line even if the last one is recent, as for a start, an end or an error.
        """
        if self._quiet:
            return
        now = time.monotonic()
        state = self._jobs.setdefault(job, _Job(title))
        if done is not None:
            state.done = done
            state.first = state.first or (now, done)
        state.total = total if total is not None else state.total
        if self._bars is not None:
            self._draw(self._bars, state, phase, detail)
        elif always or now - state.printed >= PLAIN_SECONDS:
            state.printed = now
            count = _count(state.done, state.total) if done is not None else ""
            left = _left(state, now) if done is not None else ""
            self.say("  ".join(part for part in (title, phase, count, detail, left) if part))

    def say(self, line: str) -> None:
        """Print a line among the progress."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _draw(self, bars: Bars, job: _Job, phase: str, detail: str) -> None:
        if job.bar is None:
            room = max(1, min(_TITLE, self._console.width - _COUNT_AND_TIME))
            title = job.title if len(job.title) <= room else job.title[: room - 1] + "…"
            job.bar = bars.add_task(title, total=None, phase="", detail="")
        fields: Any = {name: text for name, text in (("phase", phase), ("detail", detail)) if text}
        bars.update(job.bar, total=job.total, completed=job.done, **fields)


class _Count(ProgressColumn):
    """Steps done of all steps."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, justify="right"))

    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        return Text(_count(int(task.completed), total), style="progress.download")


class _Detail(ProgressColumn):
    """Phase and numbers: the one column that gives way where the terminal is narrow."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False, overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        parts = [task.fields["phase"], task.fields["detail"]]
        return Text("  ".join(part for part in parts if part), no_wrap=True, overflow="ellipsis")


def _count(done: int | None, total: int | None) -> str:
    if total is None:
        return "" if not done else f"{done:,}"
    return f"{done or 0:,}/{total:,}"


def _left(job: _Job, now: float) -> str:
    """The time left at the speed so far."""
    if job.first is None or job.done is None or job.total is None:
        return ""
    begun, first = job.first
    if not first < job.done < job.total:
        return ""
    return f"{(now - begun) * (job.total - job.done) / (job.done - first):,.0f} s left"
