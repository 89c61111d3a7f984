"""`python -m analysis.objectives`: the objectives with their formulas, or one of them with its parameters."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ..common.command import run_command
from .definition import Entry
from .entries import ENTRIES, FAMILIES
from .listing import as_dict, families, one_entry, tables
from .rules import entry

__all__ = ["main"]

_ABOUT = """\
Prints every objective with its weight per token and its source, by family; with a name, that objective with its inputs
and parameters. Upper and lower case are the same.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m analysis.objectives", description=_ABOUT, allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="an objective, or psr, nsr, w-reinforce or reinforce for all its forms")
    parser.add_argument("--family", metavar="WORD", help="print the families whose title contains this word alone")
    parser.add_argument("--list", action="store_true", help="print the table of all objectives, as without a name")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objectives instead")
    options = parser.parse_args(arguments)
    for option, given in (("--list", options.list), ("--family", options.family is not None)):
        if given and options.name is not None:
            parser.error(f"{option}: expected no name, got {options.name}; leave one of them out")
    return run_command(lambda: _show(options.name, options.family, as_json=options.json))


def _show(name: str | None, family: str | None, *, as_json: bool) -> None:
    sections = families(family)
    entries = [entry for members in sections.values() for entry in members]
    if name is not None:
        entries = _members(name.casefold())
    if as_json:
        print(json.dumps([as_dict(member) for member in entries], ensure_ascii=False, indent=1))
    elif name is None:
        from rich.console import Console

        print("The weight w of a token: ∂L/∂z = −w·(e_y − π) + r")
        Console().print(*tables(sections))
    else:
        print("\n\n".join(map(one_entry, entries)))


def _members(name: str) -> list[Entry]:
    """The objective of that name, or psr, nsr, w-reinforce or reinforce in all its forms."""
    if name not in FAMILIES:
        return [entry(name)]
    return [member for member in ENTRIES.values() if member.name in (f"{name}-{member.form}", f"{name}-released")]


if __name__ == "__main__":
    sys.exit(main())
