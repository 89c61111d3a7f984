"""`run.report()`, `experiment.report()` and `run.diagnose()`: the links to the packages that make them.

Reports and diagnoses are made from records, so `analysis.report` and `analysis.diagnosis` import this package and not
the other way round. The top package registers what makes them; nothing of it is loaded before the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Diagnosed", "Report", "diagnosis_of", "register_diagnoser", "register_reporter", "report_of"]


class Report(Protocol):
    """What a report is: tables, a verdict and the figures that were written; see `analysis.report.Summary`."""

    @property
    def figures(self) -> tuple[Path, ...]:
        """The files of the figures."""

    def to_markdown(self) -> str:
        """The tables as a page."""

    def to_json(self) -> dict[str, Any]:
        """The tables as plain data."""


class Diagnosed(Protocol):
    """What a diagnosis is: findings with their numbers and sentences; see `analysis.diagnosis.Diagnosis`."""

    @property
    def findings(self) -> tuple[Any, ...]:
        """All findings."""

    def __getitem__(self, name: str) -> Any:
        """A finding by its name."""

    def of(self, severity: str) -> list[Any]:
        """The findings of one severity that are recorded."""

    def to_text(self) -> str:
        """A paragraph for each finding, the worst first."""

    def to_json(self) -> dict[str, Any]:
        """All findings as plain data."""


_diagnosers: list[Callable[..., Diagnosed]] = []
_reporters: list[Callable[..., Report]] = []


def register_reporter(reporter: Callable[..., Report]) -> None:
    """Let `reporter(trace, figures, each_run=…)` make the reports of runs and experiments; the latest call counts."""
    _reporters[:] = [reporter]


def report_of(trace: object, figures: str | Path | None, *, each_run: bool = False) -> Report:
    """The report of a run or an experiment, by the registered function."""
    if not _reporters:
        raise RuntimeError("report: nothing makes reports here; import the package analysis as a whole")
    return _reporters[-1](trace, figures, each_run=each_run)


def register_diagnoser(diagnoser: Callable[..., Diagnosed]) -> None:
    """Let `diagnoser(run, objective=…)` make the diagnoses of runs; the latest call counts."""
    _diagnosers[:] = [diagnoser]


def diagnosis_of(run: object, objective: object = None) -> Diagnosed:
    """The diagnosis of a run, by the registered function."""
    if not _diagnosers:
        raise RuntimeError("diagnose: nothing makes diagnoses here; import the package analysis as a whole")
    return _diagnosers[-1](run, objective=objective)
