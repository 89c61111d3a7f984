"""`python -m analysis.report`: tables, figures and the page of an experiment or of runs that were recorded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.command import command_line, figure_lines, run_command, say
from ..errors import UsageError
from ..records.folders import read_experiment
from ..records.shared_storage import folder_or_url

if TYPE_CHECKING:
    from .sources import Source

__all__ = ["main"]

_DEFAULT_RECIPE = "default"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for an invalid request, 1 for a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Tables, a verdict, figures and a page (report.html, which a browser opens from disk) of an "
        "experiment, of one run (trained, attached, watched, or traced from recorded rollouts), or of several runs "
        "compared. Writes report.html, summary.md and figures/ into the folder. Of several runs it prints the tables, "
        "writes report.html into the current folder, and draws figures with --figures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=folder_or_url,
        metavar="FOLDER",
        help="of an experiment or of a run, or its URL on shared storage, of which a copy in the cache folder is "
        "reported; several runs or experiments are compared (default: the latest complete experiment of the default "
        "recipe in runs/)",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page there instead of report.html in the folder"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures into DIR instead")
    parser.add_argument("--each-run", action="store_true", help="draw the figures of each run of an experiment too")
    parser.add_argument("--json", action="store_true", help="the tables as JSON on standard output")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _report(arguments), again=command_line("python -m analysis.report", argv))


def _report(arguments: argparse.Namespace) -> int:
    from .figure_files import check_figure_folder, report
    from .page_file import PAGE_FILE, check_page_file

    if arguments.figures is not None:
        check_figure_folder(arguments.figures)
    if arguments.page is not None:
        check_page_file(arguments.page)
    source = _source(arguments.folders or [_latest(Path("runs"))])
    page = arguments.page or (Path(PAGE_FILE) if isinstance(source, Sequence) else None)
    summary = report(source, arguments.figures, each_run=arguments.each_run, page=page)
    if arguments.json:
        files = {"figures": list(map(str, summary.figures)), "report": str(summary.page)}
        print(json.dumps(summary.to_json() | files, indent=1, allow_nan=False))
    else:
        from rich.console import Console

        print(f"report   {summary.page}\n")
        summary.render(Console())
        print("\n".join(figure_lines(summary.figures)))
    if arguments.open:
        _open(summary.page)
    return 0


def _open(page: Path | None) -> None:
    """Show the page in the default browser."""
    import webbrowser

    if page is None or not webbrowser.open(page.resolve().as_uri()):
        say(f"--open: no browser was found; open {page} yourself", 0)


def _source(folders: Sequence[str | Path]) -> Source:
    """What lies in the folders; of several all runs, each with a name of its own."""
    from ..records import load_trace
    from .sources import runs_of, with_distinct_names

    sources = [load_trace(folder) for folder in folders]
    if len(sources) == 1:
        return sources[0]
    return with_distinct_names([run for source in sources for run in runs_of(source)])


def _latest(runs: Path) -> Path:
    """The latest complete experiment of the default recipe."""
    complete = []
    for file in runs.glob("*/experiment.json"):
        info = read_experiment(file.parent)
        if info["name"] == _DEFAULT_RECIPE and info["status"] == "complete":
            complete.append((info["created"], file.parent))
    if not complete:
        raise UsageError(
            f"experiment: expected a folder, or a complete experiment of the {_DEFAULT_RECIPE} recipe in {runs}/, got "
            "neither; run `python -m analysis.trace --run` first, or name a folder"
        )
    return max(complete)[1]


if __name__ == "__main__":
    sys.exit(main())
