"""`python -m analysis.training [--check]`: write docs/recipes.md from the fields, or exit 1 where it is stale."""

from __future__ import annotations

import sys

from ..pages import page_command
from .document import recipes_page


def main(arguments: list[str] | None = None) -> int:
    """Write (or with --check compare) the page; the exit status."""
    return page_command("analysis.training", "docs/recipes.md", recipes_page, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
