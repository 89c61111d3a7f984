"""`python -m analysis.evaluation [--check]`: measure the built-in bases, pretraining those that are not cached (a
minute each, up to twenty), and write docs/bases.md; or exit 1 where it is stale."""

from __future__ import annotations

import sys

from rich.console import Console

from ..pages import page_command
from .bases import bases_page


def main(arguments: list[str] | None = None) -> int:
    """Write (or with --check compare) the page; the exit status."""
    with Console(stderr=True).status("bases") as status:
        return page_command(
            "analysis.evaluation", "docs/bases.md", lambda: bases_page(status.update), __doc__, arguments
        )


if __name__ == "__main__":
    sys.exit(main())
