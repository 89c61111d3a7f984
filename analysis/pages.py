"""Pages of docs/ that are generated from code: written by `python -m <room>`, compared by its `--check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["page_command"]


def page_command(room: str, path: str, render: Callable[[], str], about: str, arguments: list[str] | None) -> int:
    """Write the page of `room`, or with --check compare it; the exit status, 1 for a stale page.

    `path` is where the page goes from the root of the project, `render` makes its text, `about` is for --help.
    """
    command = f"python -m {room}"
    parser = argparse.ArgumentParser(prog=command, description=about)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--path", type=Path, default=Path(path), help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    page = render()
    if options.check:
        stale = not options.path.exists() or options.path.read_text(encoding="utf-8") != page
        if stale:
            print(f"{options.path} is stale; run {command}", file=sys.stderr)
        return int(stale)
    options.path.parent.mkdir(parents=True, exist_ok=True)
    options.path.write_text(page, encoding="utf-8")
    print(options.path)
    return 0
