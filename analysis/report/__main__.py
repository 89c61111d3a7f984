"""`python -m analysis.report`: the tables and figures of an experiment or of runs that were recorded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.command import command_line, figure_lines, run_command
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
        description="Tables, a verdict and figures of an experiment, of one run (trained, attached, or traced from "
        "recorded rollouts), or of several runs compared. Writes summary.md and figures/ into the folder; of several "
        "runs it prints the tables, and draws figures with --figures.",
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
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures into DIR instead")
    parser.add_argument("--each-run", action="store_true", help="draw the figures of each run of an experiment too")
    parser.add_argument("--json", action="store_true", help="the tables as JSON on standard output")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _report(arguments), again=command_line("python -m analysis.report", argv))


def _report(arguments: argparse.Namespace) -> int:
    from .figure_files import check_figure_folder, report

    if arguments.figures is not None:
        check_figure_folder(arguments.figures)
    source = _source(arguments.folders or [_latest(Path("runs"))])
    summary = report(source, arguments.figures, each_run=arguments.each_run)
    if arguments.json:
        print(json.dumps(summary.to_json() | {"figures": list(map(str, summary.figures))}, indent=1, allow_nan=False))
        return 0
    from rich.console import Console

    summary.render(Console())
    print("\n".join(figure_lines(summary.figures)))
    return 0


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
