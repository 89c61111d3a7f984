"""`python -m docs.generators.measure NAME [SOURCE]`: measure what the pages say, into docs/results/NAME.json.

main_job FOLDER     from the experiment of `make figures`
noise FILE          from the Parquet file of `make noise`
bases               every built-in base; one that is not cached is pretrained, up to an hour for all of them
token_statistics    the accuracy of token statistics and of other libraries that are installed, about a minute
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import results

__all__ = ["main"]

_NOISE = ("base", "task", "estimator", "p", "noise_ratio", "noise_ratio_se")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.generators.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=("main_job", "noise", "bases", "token_statistics"))
    parser.add_argument("source", nargs="?", type=Path, help="the folder or file, where one is needed")
    options = parser.parse_args(argv)
    if (options.source is None) == (options.name in ("main_job", "noise")):
        parser.error(f"{options.name}: expected {'a' if options.source is None else 'no'} source")
    measures: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "main_job": lambda: _main_job(options.source),
        "noise": lambda: _noise(options.source),
        "bases": _bases,
        "token_statistics": _token_statistics,
    }
    command, data = measures[options.name]()
    print(f"wrote {results.write(options.name, command, data)}")
    return 0


def _main_job(folder: Path) -> tuple[str, dict[str, Any]]:
    from .main_job import main_job

    return "make figures", main_job(folder)


def _noise(path: Path) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-m", "analysis.noise", "--read", str(path), "--json", "--quiet"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    kept = [{name: row[name] for name in _NOISE} for row in measured["measurements"] if row["estimator"] == "NSR"]
    return "make noise", {"measurements": kept, "crossings": measured["crossings"]}


def _bases() -> tuple[str, dict[str, Any]]:
    from rich.console import Console

    from .bases_page import measure

    with Console(stderr=True).status("bases") as status:
        return "python -m docs.generators.measure bases", measure(status.update)


def _token_statistics() -> tuple[str, dict[str, Any]]:
    from .token_statistics_page import measure

    return "python -m docs.generators.measure token_statistics", measure(results.read("token_statistics"))


if __name__ == "__main__":
    sys.exit(main())
