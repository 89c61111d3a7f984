"""`python -m analysis.objectives`: the objectives with their formulas, or one of them with its parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..common.command import run_command
from .entries import ENTRIES, FAMILIES
from .listing import one_entry, table
from .rules import entry

__all__ = ["main"]

_ABOUT = """\
Prints every objective with its weight per token and its source; with a name, that objective with its inputs and
parameters.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m analysis.objectives", description=_ABOUT, allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="an objective")
    options = parser.parse_args(arguments)
    return run_command(lambda: _show(options.name))


def _show(name: str | None) -> None:
    if name is None:
        from rich.console import Console

        Console().print(table())
        return
    members = [member for member in ENTRIES.values() if member.name.removesuffix(f"-{member.form}") == name]
    print("\n\n".join(map(one_entry, members if name in FAMILIES else [entry(name)])))


if __name__ == "__main__":
    sys.exit(main())
