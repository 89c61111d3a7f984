"""`python -m analysis.coverage`: how often the intervals that the toolkit prints cover, by simulation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..common.command import command_line, run_command
from ..common.output_files import check_output_file
from ..errors import UsageError

__all__ = ["main"]

_ABOUT = """\
Draw data from worlds whose truth is known, compute each interval by the function that tables and figures call, and
count how often it covers. The result is the table of docs/intervals.md."""

_MANUAL = """\
examples:
  python -m analysis.coverage --quick
  python -m analysis.coverage --kind crossing --kind success
  python -m analysis.coverage --results docs/results/coverage.json    the committed result

exit status:
  0  done      1  a fault of the program      2  invalid request      130  stopped by Ctrl-C or SIGTERM
"""

_REPLICATES, _QUICK = 2000, 100


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments, command_line("python -m analysis.coverage", argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.coverage",
        description=_ABOUT,
        epilog=_MANUAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--kind", action="append", default=[], dest="kinds", metavar="KIND", help="only this kind; may be repeated")
    add("--replicates", type=int, metavar="N", help=f"draws of each world (default: {_REPLICATES}; costly ones fewer)")
    add("--quick", action="store_true", help=f"{_QUICK} draws of each world, to see that all works")
    add("--seed", type=int, default=0, metavar="N", help="of all draws (default: %(default)s)")
    add("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s); the same numbers")
    add("--results", type=Path, metavar="FILE.json", help="write the numbers there, with command, versions and date")
    add("--json", action="store_true", help="the numbers as JSON on standard output")
    add("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _run(arguments: argparse.Namespace, command: str) -> None:
    from ..evaluation.interval_kinds import Kind

    known = [str(kind) for kind in Kind]
    for kind in arguments.kinds:
        if kind not in known:
            raise UsageError(f"--kind: expected one of {', '.join(known)}, got {kind}")
    replicates = arguments.replicates or (_QUICK if arguments.quick else _REPLICATES)
    if replicates < 1:
        raise UsageError(f"--replicates: expected at least 1, got {replicates}")
    if arguments.workers < 1:
        raise UsageError(f"--workers: expected at least 1, got {arguments.workers}")
    check_output_file("--results", arguments.results, ".json")

    from ..common.progress import Progress
    from ..common.provenance import measured_with
    from .measurement import measure, table

    with Progress(quiet=arguments.quiet) as progress:
        rows = measure(
            arguments.kinds or known,
            replicates=replicates,
            seed=arguments.seed,
            workers=arguments.workers,
            progress=lambda done, total: progress.show("coverage", "coverage", done=done, total=total),
        )
    data = measured_with(command) | {"seed": arguments.seed, "replicates": replicates, "level": 0.95, "rows": rows}
    if arguments.results is not None:
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = json.dumps(data | {"rows": []}, indent=1, ensure_ascii=False, allow_nan=False)
        arguments.results.write_text(head.replace('"rows": []', f'"rows": [\n  {lines}\n ]') + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    console.print(table(rows).to_rich(console.width))
    if arguments.results is not None:
        print(f"results  {arguments.results}")


if __name__ == "__main__":
    sys.exit(main())
