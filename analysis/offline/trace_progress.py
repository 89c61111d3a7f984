"""Progress of a trace on stderr, with the time left: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["TokenProgress"]

_PLAIN_SECONDS = 10.0


class TokenProgress:
    """Counts tokens of `total`, `done` of which were traced before; to be entered while it goes on."""

    def __init__(self, total: int, done: int = 0, *, quiet: bool = False, console: Console | None = None) -> None:
        self._total, self._done, self._quiet = total, done, quiet
        self._console = console or Console(file=sys.stderr)
        self._before, self._begun = done, time.monotonic()
        self._printed = self._begun
        self._bars: Bars | None = None

    def __enter__(self) -> TokenProgress:
        if not self._quiet and self._console.is_terminal:
            self._bars = Bars(
                TextColumn("tracing"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
            self._task = self._bars.add_task("", total=self._total, completed=self._done, speed="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, tokens: int) -> None:
        """So many more tokens are traced."""
        self._done += tokens
        now = time.monotonic()
        speed = (self._done - self._before) / max(now - self._begun, 1e-9)
        if self._bars is not None:
            self._bars.update(self._task, completed=self._done, speed=f"{speed:,.0f} tok/s")
        elif not self._quiet and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            left = (self._total - self._done) / max(speed, 1e-9)
            self.say(f"traced {self._done:,} of {self._total:,} tokens  {speed:,.0f} tok/s  {left:,.0f} s left")

    def say(self, line: str) -> None:
        """A line among the progress; nothing where it is quiet."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
