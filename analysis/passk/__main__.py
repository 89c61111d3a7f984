"""`python -m analysis.passk`: Pass@k with intervals from a file of graded samples."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.command import command_line, run_command
from ..common.output_files import check_output_file
from ..errors import UsageError

if TYPE_CHECKING:
    from ..common.tables import Table
    from .curves import PassCurves

__all__ = ["main"]

_SHOWN = 12  # rows of the table on a terminal

_ABOUT = """\
Pass@k, k = 1 to n, with 95% intervals over prompts, from a file of graded samples: one row a sample (prompt, correct)
or one row a prompt (prompt, n, c), as JSON Lines, JSON, CSV, Parquet or Arrow. Of two files, two checkpoints on the
same prompts, it also gives the paired difference and the k at which the curves cross. docs/intervals.md says how often
the intervals cover.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for an invalid request, 1 for a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.passk",
        description=_ABOUT,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="graded samples of a checkpoint")
    parser.add_argument("second", type=Path, nargs="?", metavar="FILE2", help="those of another one")
    parser.add_argument(
        "--columns",
        default="",
        metavar="ROLE=NAME,…",
        help="columns of other names than the known ones; the roles are prompt, correct, n and c",
    )
    parser.add_argument("--above", type=float, metavar="SCORE", help="a sample with a greater score is correct")
    parser.add_argument("--k", metavar="K,…", help="which k (all from 1 to the fewest samples of a prompt)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves there; .png or .svg")
    parser.add_argument("--json", action="store_true", help="all numbers as JSON on standard output")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _run(arguments), again=command_line("python -m analysis.passk", argv))


def _run(arguments: argparse.Namespace) -> int:
    check_output_file("--figure", arguments.figure, (".png", ".svg"))
    columns = _columns(arguments.columns)
    ks = None if arguments.k is None else _ks(arguments.k)
    from .curves import pass_curves
    from .graded import read_graded

    files = [path for path in (arguments.file, arguments.second) if path is not None]
    curves = pass_curves(*(read_graded(path, columns=columns, above=arguments.above) for path in files), ks=ks)
    if arguments.figure is not None:
        from ..report import save_figure
        from .figure import pass_curves_figure

        save_figure(pass_curves_figure(curves), arguments.figure)
    if arguments.json:
        print(json.dumps(curves.to_json(), indent=1, allow_nan=False))
        return 0
    from rich.console import Console

    console = Console()
    console.print(_table(curves).to_rich(console.width))
    for sentence in (*curves.notes, *curves.sentences()):
        console.print(sentence, highlight=False, markup=False)
    if arguments.figure is not None:
        print(f"figure   {arguments.figure}")
    return 0


def _columns(text: str) -> dict[str, str]:
    from ..offline.columns import parse_mapping

    return parse_mapping(text) if text else {}


def _ks(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UsageError(f"--k: expected whole numbers such as 1,4,16, got {text!r}")
    return [int(part) for part in text.split(",")]


def _table(curves: PassCurves) -> Table:
    from rich.markup import escape

    from ..common.tables import Cell, Column, Table

    by_label = {str(label): rows.set_index("k") for label, rows in curves.table.groupby("label", sort=False)}
    if len(by_label) > 1:
        by_label[str(curves.difference["label"].iloc[0])] = curves.difference.set_index("k")
    ks = [int(k) for k in next(iter(by_label.values())).index]
    shown = ks if len(ks) <= _SHOWN else [k for k in ks if k & (k - 1) == 0 or k == ks[-1]]
    rows: list[tuple[Cell | str, ...]] = []
    for k in shown:
        cells = [
            Cell(
                float(numbers["value"][k]),
                float(numbers["low"][k]),
                float(numbers["high"][k]),
                digits=3,
                kind=str(numbers["kind"][k]),
                reason=str(numbers["reason"][k]),
            )
            for numbers in by_label.values()
        ]
        rows.append((str(k), *cells))
    columns = (Column("k", "k"), *(Column(escape(str(label)), f"column_{i}") for i, label in enumerate(by_label)))
    return Table(f"Pass@k, mean over {curves.prompts} prompts", columns, tuple(rows), key="pass_at_k")


if __name__ == "__main__":
    sys.exit(main())
