"""What every `report.html` carries besides its data: template, style and script.

They lie in `page/` beside this module. The script is one module, kept in files by concept and joined here. No charting
library is inlined: the few marks that the page draws are plain SVG, and its numbers must be those of the laws.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..version import __version__

__all__ = ["PAGE_FILE", "filled", "page_assets"]

PAGE_FILE = "report.html"
_FOLDER = Path(__file__).parent / "page"
_SCRIPTS = (  # in the order in which they need one another
    *("data.js", "laws.js", "elements.js", "text.js", "chart.js", "state.js", "quantities.js"),
    *("overview.js", "rollouts.js", "sentence.js", "token.js", "what_if.js", "panel.js", "plane.js", "main.js"),
)


@cache
def page_assets() -> dict[str, str]:
    """Template, style and script of the page."""
    read = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("template.html", "page.css", *_SCRIPTS)}
    script = "\n".join(read[name] for name in _SCRIPTS)
    return {"template": read["template.html"], "style": read["page.css"], "script": script}


def filled(header: Mapping[str, Any], block: str) -> str:
    """The page.

    Args:
        header: what `page_data.PageData` has, `name` in it is the title.
        block: the numbers in base64.
    """
    assets = page_assets()
    parts = {
        "title": html.escape(str(header["name"])),
        "version": html.escape(__version__),
        "style": assets["style"],
        "script": assets["script"],
        "header": _json_in_html(header),
        "block": block,
    }
    pieces = assets["template"].split("@@")  # text, name, text, name, …, text; what is put in is not searched again
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)


def _json_in_html(value: Any) -> str:
    """JSON that cannot end the element it stands in; ASCII alone, so that any character survives.

    >>> _json_in_html({"text": "</script>"})
    '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
