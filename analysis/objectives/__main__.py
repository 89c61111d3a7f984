"""`python -m analysis.objectives`: the objectives with their formulas, or one of them with its parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import UsageError
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
    if options.name is None:
        from rich.console import Console

        Console().print(table())
        return 0
    try:
        members = [one for one in ENTRIES.values() if one.name.removesuffix(f"-{one.form}") == options.name]
        print("\n\n".join(map(one_entry, members if options.name in FAMILIES else [entry(options.name)])))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
