"""What objects show of themselves in a notebook: a line and a table, bars, and shaded words.

Plain HTML without scripts or classes. Shades are transparent colours of Okabe and Ito, so that the text keeps the
colour of the page, light or dark; whatever was written by a model is escaped.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["NEGATIVE", "POSITIVE", "html_bar", "html_table", "shade", "shortened", "visible"]

POSITIVE, NEGATIVE = (0, 114, 178), (213, 94, 0)  # blue and vermilion
_DEEPEST = 0.55  # opacity of the strongest shade; text on it has a contrast above 4.5 in both themes
_BAR_EMS = 12.0


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


def html_bar(fraction: float, *, sampled: bool) -> str:
    """A bar as long as a fraction of the full width; that of the sampled token in another colour.

    >>> html_bar(0.5, sampled=True)
    "<div style='width:6.00em;height:0.8em;background:rgba(213,94,0,0.8)'></div>"
    """
    color = NEGATIVE if sampled else POSITIVE
    width = _BAR_EMS * min(max(fraction, 0.0), 1.0)
    return f"<div style='width:{width:.2f}em;height:0.8em;background:{_rgba(color, 0.8)}'></div>"


def shade(text: str, color: tuple[int, int, int], strength: float, hover: str) -> str:
    """A word on a transparent colour, with a text that appears under the pointer.

    Args:
        text: the word; it is escaped.
        color: red, green, blue.
        strength: 0 for none, 1 for the deepest.
        hover: the text under the pointer; it is escaped.

    >>> shade("<b>", POSITIVE, 1.0, 'a "b"')
    "<span title='a &quot;b&quot;' style='background:rgba(0,114,178,0.55);padding:1px'>&lt;b&gt;</span>"
    """
    background = _rgba(color, _DEEPEST * min(max(strength, 0.0), 1.0))
    return f"<span title='{html.escape(hover)}' style='background:{background};padding:1px'>{html.escape(text)}</span>"


def visible(text: str) -> str:
    """White space as signs that can be seen, and control characters, those of writing directions too, by their code.

    >>> visible(" a\\n"), visible("a\\u202eb\\x07")
    ('␣a⏎', 'a‹202E›b‹07›')
    """
    signs = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(f"‹{ord(sign):02X}›" if unicodedata.category(sign) in _UNSEEN else sign for sign in signs)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters, whose end says that it goes on.

    >>> shortened("abcdef", 4), shortened("abcd", 4)
    ('abc…', 'abcd')
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def _rgba(color: tuple[int, int, int], opacity: float) -> str:
    return f"rgba({color[0]},{color[1]},{color[2]},{opacity:.2f})".replace("0.00", "0").replace("0.80", "0.8")


_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, format, surrogates, private, unassigned, separators
