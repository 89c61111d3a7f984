"""What objects show of themselves in a notebook: a line and a table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["html_table"]


def html_table(name: str, about: str, rows: Iterable[Sequence[object]], *, columns: Sequence[str] | None = None) -> str:
    """A bold name, what it is, and a table below; without `columns` the first cell of each row is its heading.

    >>> html_table("Run", "psr", [("steps", 4)])
    '<p><b>Run</b> psr</p><table><tr><th>steps</th><td>4</td></tr></table>'
    """

    def cell(value: object, tag: str) -> str:
        return f"<{tag}>{html.escape(str(value))}</{tag}>"

    head = "" if columns is None else "<tr>" + "".join(cell(column, "th") for column in columns) + "</tr>"
    first = "th" if columns is None else "td"
    body = "".join(
        "<tr>" + "".join(cell(value, first if at == 0 else "td") for at, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<p><b>{html.escape(name)}</b> {html.escape(about)}</p><table>{head}{body}</table>"
