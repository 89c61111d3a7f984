"""`python -m docs.generators`: write the pages of docs/ that are made from code, or say which of them are stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.claims.claim import FAMILIES

__all__ = ["PAGES", "Page", "main"]

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Page:
    """A generated page: its path from the root of the repository, and the function that renders it."""

    path: str
    render: Callable[[], str]


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


def _trl() -> str:
    from .trl_page import trl_page

    return trl_page()


def _verl() -> str:
    from .verl_page import verl_page

    return verl_page()


def _smollm2() -> str:
    from .smollm2_page import smollm2_page

    return smollm2_page()


def _layers() -> str:
    from .layers_picture import layers_picture

    return layers_picture()


def _gallery() -> str:
    from .gallery_page import gallery_page

    return gallery_page()


def _bases() -> str:
    from .bases_page import bases_page

    return bases_page()


def _claims() -> str:
    from .claims_pages import index_page

    return index_page()


def _claims_of(family: str) -> Callable[[], str]:
    def page() -> str:
        from .claims_pages import family_page

        return family_page(family)

    return page


def _template(name: str) -> Callable[[], str]:
    def page() -> str:
        from .templates import render

        return render(name)

    return page


PAGES = {
    "records": Page("docs/records.md", _records),
    "recipes": Page("docs/recipes.md", _recipes),
    "objectives": Page("docs/objectives.md", _objectives),
    "conservation": Page("docs/conservation.md", _conservation),
    "token_statistics": Page("docs/token_statistics.md", _token_statistics),
    "intervals": Page("docs/intervals.md", _intervals),
    "smollm2": Page("docs/smollm2.md", _smollm2),
    "trl": Page("docs/trl_and_the_loop.md", _trl),
    "verl": Page("docs/verl_and_the_loop.md", _verl),
    "layers": Page("docs/images/layers.svg", _layers),
    "gallery": Page("docs/gallery.md", _gallery),
    "bases": Page("docs/bases.md", _bases),
    "claims": Page("docs/claims/index.md", _claims),
    **{f"claims_{family}": Page(f"docs/claims/{family}.md", _claims_of(family)) for family in FAMILIES},
    "readme": Page("README.md", _template("README.md")),
    "choose_a_base": Page("docs/how_to/choose_a_base.md", _template("choose_a_base.md")),
    "findings": Page("docs/findings.md", _template("findings.md")),
    "performance": Page("docs/performance.md", _template("performance.md")),
    "billion_tokens": Page("docs/how_to/trace_a_billion_tokens.md", _template("trace_a_billion_tokens.md")),
    "diagnose": Page("docs/how_to/diagnose.md", _template("diagnose.md")),
    "attach": Page("docs/attach.md", _template("attach.md")),
    "full_scale_runs": Page("docs/how_to/full_scale_runs.md", _template("full_scale_runs.md")),
    "train_a_real_model": Page("docs/how_to/train_a_real_model.md", _template("train_a_real_model.md")),
}

_ABOUT = """\
Without --write or --check nothing happens but this help. Measured numbers come from docs/results/, which
`python -m docs.generators.measure` makes; templates of pages are in docs/templates/.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, or 1 when --check found a stale page."""
    parser = argparse.ArgumentParser(prog="python -m docs.generators", description=__doc__, epilog=_ABOUT)
    parser.add_argument("page", nargs="*", help=f"pages to write or check: {', '.join(PAGES)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write the pages")
    parser.add_argument("--check", action="store_true", help="write nothing; list the stale pages and exit 1 if any")
    parser.add_argument("--root", type=Path, default=_ROOT, help="root of the repository (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.page if name not in PAGES]:
        parser.error(f"page: expected {', '.join(PAGES)}, got {unknown[0]}")
    if not (options.write or options.check):
        parser.print_help()
        return 0
    names = options.page or list(PAGES)
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
