"""`run.report()` and `experiment.report()`: the link to the package that makes reports.

Reports are made from records, so `analysis.report` imports this package and not the other way round. The top package
registers what makes them; nothing of it is loaded before the first report.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Report", "register_reporter", "report_of"]


class Report(Protocol):
    """What a report is: tables, a verdict and the figures that were written; see `analysis.report.Summary`."""

    @property
    def figures(self) -> tuple[Path, ...]:
        """The files of the figures."""

    def to_markdown(self) -> str:
        """The tables as a page."""

    def to_json(self) -> dict[str, Any]:
        """The tables as plain data."""


_reporters: list[Callable[..., Report]] = []


def register_reporter(reporter: Callable[..., Report]) -> None:
    """Let `reporter(trace, figures, each_run=…)` make the reports of runs and experiments; the latest call counts."""
    _reporters[:] = [reporter]


def report_of(trace: object, figures: str | Path | None, *, each_run: bool = False) -> Report:
    """The report of a run or an experiment, by the registered function."""
    if not _reporters:
        raise RuntimeError("report: nothing makes reports here; import the package analysis as a whole")
    return _reporters[-1](trace, figures, each_run=each_run)
