"""`python -m analysis.report`: the tables, the figures and the page of an experiment that was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..common.command import command_line, run_command
from ..errors import UsageError
from ..records.folders import read_experiment

__all__ = ["main"]

_DEFAULT_RECIPE = "default"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for a request that cannot be met as stated, 1 for a full disk."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Tables and figures of a recorded experiment; writes its summary.md and figures/.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "experiment",
        nargs="?",
        type=Path,
        metavar="EXPERIMENT",
        help="its folder (default: the latest complete experiment of the default recipe in runs/)",
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures into DIR instead")
    parser.add_argument("--json", action="store_true", help="the tables as JSON on standard output")
    arguments = parser.parse_args(argv)
    return run_command(
        lambda: _report(arguments.experiment or _latest(Path("runs")), arguments.figures, as_json=arguments.json),
        again=command_line("python -m analysis.report", argv),
    )


def _report(folder: Path, figures: Path | None, *, as_json: bool) -> int:
    from ..records import Experiment, load_trace
    from . import summarize, write_figures, write_page

    experiment = load_trace(folder)
    if not isinstance(experiment, Experiment):
        raise UsageError(
            f"experiment: expected the folder of an experiment, got that of a single run, {folder}; "
            "give the folder above it"
        )
    summary = summarize(experiment)
    paths = write_figures(experiment, figures)
    write_page(experiment.folder, summary.to_markdown(), paths)
    if as_json:
        print(json.dumps(summary.to_json() | {"figures": list(map(str, paths))}, indent=1, allow_nan=False))
    else:
        from rich.console import Console

        summary.render(Console())
        print("\n".join(f"figure  {path}" for path in paths))
    return 0


def _latest(runs: Path) -> Path:
    """The latest complete experiment of the default recipe."""
    found = []
    for file in runs.glob("*/experiment.json"):
        info = read_experiment(file.parent)
        if info["name"] == _DEFAULT_RECIPE and info["status"] == "complete":
            found.append((info["created"], file.parent))
    if not found:
        raise UsageError(
            f"experiment: none given, and no complete experiment of the {_DEFAULT_RECIPE} recipe in "
            f"{runs}/; run `python -m analysis.trace --run` first, or name a folder"
        )
    return max(found)[1]


if __name__ == "__main__":
    sys.exit(main())
