"""`report.html`: the page of a run or an experiment as one file that opens from disk.

Template, style and script lie in `page/` beside this module; the script is one module, kept in files by concept and
joined here. Nothing is fetched when the page is opened.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..records.folders import write_durably
from ..version import __version__
from .page_data import page_data
from .sources import Source
from .summary import Summary

__all__ = ["PAGE_FILE", "page_assets", "write_report_page"]

PAGE_FILE = "report.html"
MOST_BYTES = 10_000_000
TOKENS = 60_000  # shown of all runs together
_ASSETS = Path(__file__).parent / "page"
_SCRIPTS = (  # in the order in which they need one another
    *("data.js", "laws.js", "elements.js", "text.js", "chart.js", "state.js", "quantities.js"),
    *("overview.js", "rollouts.js", "sentence.js", "token.js", "what_if.js", "plane.js", "main.js"),
)


def write_report_page(
    source: Source, path: str | Path | None = None, *, summary: Summary | None = None, tokens: int = TOKENS
) -> Path:
    """Write the page of an experiment, of a run of any kind, or of several runs.

    Args:
        source: an `Experiment`, a `Run` (trained, attached, watched or traced), or a list of runs.
        path: the file; unset: `report.html` in the folder of the experiment or run, of several runs in the current
            folder.
        summary: the tables, where they have been made already.
        tokens: how many tokens are shown at most. Fewer are taken until the page has less than 10 MB; the page says
            how many there were.

    Returns:
        The path.

    Raises:
        UsageError: nothing is committed yet.

    Example:
        >>> write_report_page(analysis.load_trace("runs/…"))  # doctest: +SKIP
    """
    folder = getattr(source, "folder", None)
    target = Path(path) if path is not None else Path(folder or ".") / PAGE_FILE
    while True:
        data = page_data(source, tokens, summary)
        text = _filled(data.header, data.block).encode("utf-8")
        if len(text) <= MOST_BYTES or tokens <= 1:
            break
        tokens = int(tokens * min(0.9, MOST_BYTES / len(text)))
    write_durably(target, text)
    return target


@cache
def page_assets() -> dict[str, str]:
    """Template, style and script of the page."""
    read = {name: (_ASSETS / name).read_text(encoding="utf-8") for name in ("template.html", "page.css", *_SCRIPTS)}
    script = "\n".join(read[name] for name in _SCRIPTS)
    return {"template": read["template.html"], "style": read["page.css"], "script": script}


def _filled(header: Mapping[str, Any], block: str) -> str:
    """The template with its parts; each placeholder stands once, and what is put in is not searched again."""
    assets = page_assets()
    parts = {
        "title": html.escape(str(header["name"])),
        "version": html.escape(__version__),
        "style": assets["style"],
        "script": assets["script"],
        "header": _json_in_html(header),
        "block": block,
    }
    pieces = assets["template"].split("@@")  # text, name, text, name, …, text
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)


def _json_in_html(value: Any) -> str:
    """JSON that cannot end the element it stands in; ASCII alone, so that any character survives.

    >>> _json_in_html({"text": "</script>"})
    '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
