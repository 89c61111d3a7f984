"""`python -m analysis.training [--check]`: write docs/recipes.md from the fields, or exit 1 where it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .document import recipes_page


def main(arguments: list[str] | None = None) -> int:
    """Write (or with --check compare) the page; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.training", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--path", type=Path, default=Path("docs/recipes.md"), help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    page = recipes_page()
    if options.check:
        stale = not options.path.exists() or options.path.read_text(encoding="utf-8") != page
        if stale:
            print(f"{options.path} is stale; run python -m analysis.training", file=sys.stderr)
        return int(stale)
    options.path.parent.mkdir(parents=True, exist_ok=True)
    options.path.write_text(page, encoding="utf-8")
    print(options.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
