"""`python -m analysis.token_stats [--measure] [--check]`: write docs/token_statistics.md, the battery of hard rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..pages import page_command
from .document import measure, read, token_statistics_page, write

__all__ = ["main"]

_ABOUT = """\
Writes docs/token_statistics.md from the measurements that are kept; --measure, before the other options, makes them
anew first (half a minute, and as long for torch.compile), TRL and verl where they are installed.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write (or with --check compare) the page; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--measure"]:
        write(measure(read()))
        given = given[1:]
    return page_command("analysis.token_stats", "docs/token_statistics.md", token_statistics_page, _ABOUT, given)


if __name__ == "__main__":
    sys.exit(main())
