"""Tables, figures, summary.md and report.html of an experiment or a run, written into its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..records.folders import write_durably
from . import figures as compose
from .figures import NothingToDraw
from .mechanism_figures import flow_diagram_figure
from .noise_figures import noise_dynamics_figure
from .page_file import check_page_file, write_report_page
from .png import save_figure
from .run_summary import summarize
from .sources import Source, runs_of
from .summary import Summary
from .token_pictures import FlowData
from .trace_figures import write_trace_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..records import Run

__all__ = ["check_figure_folder", "report", "write_figures", "write_page"]


def report(
    source: Source,
    figures: str | Path | None = None,
    *,
    each_run: bool = False,
    page: str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Summary:
    """Summarise an experiment or a run, draw its figures, and write `summary.md` and `report.html` into its folder.

    Args:
        source: an `Experiment`, a `Run` of any kind, or several runs. Several runs have no folder: figures are
            written with `figures` alone, and the page with `page` alone.
        figures: folder of the figures; unset: `figures/` in the folder of the experiment or the run.
        each_run: whether to draw the figures of each run of an experiment too, into the folder of that run.
        page: file of the page; unset: `report.html` in the folder of the experiment or the run.
        tell: receives a line for each figure that has no records; unset: standard error.

    Returns:
        The summary; `figures` and `page` of it name the files.

    Raises:
        UsageError: nothing to report is recorded yet, `figures` is a file, or `page` a folder.

    Example:
        >>> report(analysis.load_trace("runs/…")).verdict  # doctest: +SKIP
    """
    if figures is not None:
        check_figure_folder(Path(figures))
    if page is not None:
        check_page_file(Path(page))
    summary = summarize(source)
    folder = getattr(source, "folder", None)
    if folder is not None or figures is not None:
        summary = replace(summary, figures=tuple(write_figures(source, figures, each_run=each_run, tell=tell)))
    if folder is not None:
        write_page(folder, summary.to_markdown(), summary.figures)
    if folder is not None or page is not None:
        summary = replace(summary, page=write_report_page(source, page, summary=summary))
    return summary


def check_figure_folder(folder: Path) -> None:
    """Refuse a folder of figures that cannot be made, before any work is done."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if existing is not None and not existing.is_dir():
        raise UsageError(f"--figures: expected a folder, got the file {existing}; name a folder, it is made if missing")


def write_figures(
    source: Source,
    folder: str | Path | None = None,
    *,
    each_run: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the figures of an experiment or of runs as PNG.

    Args:
        source: an experiment, a run or runs. Runs without evaluations get the figures of their tokens.
        folder: where; unset: `figures/` in the folder of the experiment or the run.
        each_run: whether to draw those of each run too, into `<run>/figures/`.
        tell: receives a line for each figure whose records are missing; unset: standard error.

    Returns:
        The paths, those of all runs together first.
    """
    tell = tell or (lambda line: print(line, file=sys.stderr))
    runs = runs_of(source)
    own = getattr(source, "folder", None)
    target = Path(folder) if folder is not None else Path(own) / "figures" if own is not None else Path("figures")
    if runs and not any(run.rows("evals") for run in runs):
        by_tokens = [run for run in runs if run.rows("tokens")]
        alone = len(by_tokens) == 1
        return [
            path
            for run in by_tokens
            for path in write_trace_figures(run, folder=target if alone else target / run.folder.name)
        ]
    figures = _figures(runs)
    wanted: list[tuple[Path, str, Sequence[Run]]] = [(target, name, runs) for name in figures]
    if each_run:
        wanted += [(run.folder / "figures", name, [run]) for run in runs for name in figures]
    written = []
    for where, name, drawn in wanted:
        path = where / f"{name}.png"
        try:
            figure = figures[name](drawn)
        except NothingToDraw as reason:
            tell(f"no {path}: {reason}")
            continue
        save_figure(figure, path)
        written.append(path)
    return written


def _figures(runs: Sequence[Run]) -> dict[str, Callable[[Any], Figure]]:
    """Name of each file -> how it is drawn; what the runs share is read once."""
    followed = [run for run in runs if run.rows("flows")]
    flows = FlowData.of(followed) if followed else None
    figures: dict[str, Callable[[Any], Figure]] = {
        "dynamics": compose.dynamics_figure,
        "pass_at_k": compose.pass_at_k_figure,
        "token_gradient": compose.token_figure,
        "flow_diagram": lambda some: flow_diagram_figure(some, flows),
        "mass_flow": lambda some: compose.mass_flow_figure(some, flows),
        "prediction_and_outcome": lambda some: compose.prediction_figure(some, flows),
    }
    if any(run.rows("noise") for run in runs):
        figures["noise_over_steps"] = noise_dynamics_figure
    return figures


def write_page(folder: Path, tables: str, figures: Sequence[Path]) -> None:
    """summary.md of an experiment or a run: its tables, then the figures that lie in its own figures/."""
    own = [path for path in figures if path.parent == folder / "figures"]
    pictures = [f"![{path.stem.replace('_', ' ')}](figures/{path.name})\n" for path in own]
    write_durably(folder / "summary.md", "\n".join([tables, *pictures]).encode())
