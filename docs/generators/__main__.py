"""`python -m docs.generators`: write the pages of docs/ that are made from code, or say which of them are stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "Page", "main"]

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Page:
    """A generated page: its path from the root of the repository, and the function that renders it.

    A page that is `costly` (it pretrains bases, which takes up to an hour) is left out unless it is named.
    """

    path: str
    render: Callable[[], str]
    costly: bool = False


def _records() -> str:
    from .records_page import records_page

    return records_page()


def _recipes() -> str:
    from .recipes_page import recipes_page

    return recipes_page()


def _objectives() -> str:
    from .objectives_page import objectives_page

    return objectives_page()


def _conservation() -> str:
    from .conservation_page import conservation_page

    return conservation_page()


def _token_statistics() -> str:
    from .token_statistics_page import token_statistics_page

    return token_statistics_page()


def _intervals() -> str:
    from .intervals_page import intervals_page

    return intervals_page()


def _layers() -> str:
    from .layers_picture import layers_picture

    return layers_picture()


def _bases() -> str:
    from rich.console import Console

    from .bases_page import bases_page

    with Console(stderr=True).status("bases") as status:
        return bases_page(status.update)


PAGES = {
    "records": Page("docs/records.md", _records),
    "recipes": Page("docs/recipes.md", _recipes),
    "objectives": Page("docs/objectives.md", _objectives),
    "conservation": Page("docs/conservation.md", _conservation),
    "token_statistics": Page("docs/token_statistics.md", _token_statistics),
    "intervals": Page("docs/intervals.md", _intervals),
    "layers": Page("docs/images/layers.svg", _layers),
    "bases": Page("docs/bases.md", _bases, costly=True),
}

_ABOUT = """\
Without --write or --check nothing happens but this help. The page "bases" pretrains every built-in base that is not
cached (up to an hour), so it is written or checked only when it is named.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, or 1 when --check found a stale page."""
    parser = argparse.ArgumentParser(prog="python -m docs.generators", description=__doc__, epilog=_ABOUT)
    parser.add_argument("page", nargs="*", help=f"pages to write or check: {', '.join(PAGES)} (default: all but bases)")
    parser.add_argument("--write", action="store_true", help="write the pages")
    parser.add_argument("--check", action="store_true", help="write nothing; list the stale pages and exit 1 if any")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the accuracy of token statistics again before writing (about a minute)",
    )
    parser.add_argument("--root", type=Path, default=_ROOT, help="root of the repository (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.page if name not in PAGES]:
        parser.error(f"page: expected {', '.join(PAGES)}, got {unknown[0]}")
    if not (options.write or options.check):
        parser.print_help()
        return 0
    if options.measure:
        from .token_statistics_page import measure, read, write

        write(measure(read()))
    names = options.page or [name for name, page in PAGES.items() if not page.costly]
    stale = []
    for name in names:
        path, text = options.root / PAGES[name].path, PAGES[name].render()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if options.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        else:
            stale.append(name)
            print(f"{path} is stale; run python -m docs.generators --write {name}", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
