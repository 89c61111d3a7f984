"""`python -m analysis.recording [--check]`: write docs/records.md from the schema, or exit 1 where it is stale."""

from __future__ import annotations

import sys

from ..pages import page_command
from .document import records_page


def main(arguments: list[str] | None = None) -> int:
    """Write (or with --check compare) the page; the exit status."""
    return page_command("analysis.recording", "docs/records.md", records_page, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
