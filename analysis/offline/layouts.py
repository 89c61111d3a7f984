"""Which layout a file has: recognised by its columns, or named by its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toy_models.messages import unknown_name

from ..errors import UsageError
from .known_layouts import LAYOUTS
from .layout import Layout

__all__ = ["FORMATS", "LAYOUTS", "PLAIN", "Layout", "closest", "layout_named", "recognise"]

PLAIN = "plain"  # in place of a key: columns by their names alone
FORMATS = (PLAIN, *(layout.key for layout in LAYOUTS if not layout.refusal))
_SHOWN = 30  # columns in a message


def recognise(names: Sequence[str], given: Mapping[str, str]) -> Layout | None:
    """The layout that columns belong to; None where there is none, or where the user has named prompt or response.

    Raises UsageError for a layout that is not read.
    """
    have, named = set(names), {"prompt", "response", "prompt_ids", "response_ids"} & set(given)
    for layout in LAYOUTS:
        if not layout.fits(have) or (named and (layout.unpack is not None or layout.refusal)):
            continue
        if layout.refusal:
            raise UsageError(f'columns: this is the layout "{layout.name}": {layout.refusal}')
        return layout
    return None


def layout_named(key: str, names: Sequence[str], source: str) -> Layout | None:
    """The layout of that key; None for `PLAIN`.

    Raises UsageError for an unknown key, and where the columns that make the layout are missing.
    """
    layout = next((layout for layout in LAYOUTS if layout.key == key and not layout.refusal), None)
    if key == PLAIN:
        return None
    if layout is None:
        raise UsageError(unknown_name("format", key, FORMATS))
    if missing := layout.missing(set(names)):
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        raise UsageError(
            f"format: {key} ({layout.name}) has the columns {', '.join(layout.marks)}; {source} has no "
            f"{' and no '.join(missing)}, but {shown or 'no columns'}; leave format (--format) out, or choose another"
        )
    return layout


def closest(names: Sequence[str]) -> str:
    """What was looked for, in words, and the layout of which the fewest columns are missing."""
    have = set(names)
    readable = [layout for layout in LAYOUTS if not layout.refusal and not layout.forced]
    near = [layout for layout in readable if len(layout.missing(have)) < len(layout.marks)]
    said = f"none of the {len(readable)} known layouts fits"
    if near:
        best = min(near, key=lambda layout: len(layout.missing(have)) / len(layout.marks))
        lacking = best.missing(have) or [f"a file without {name}" for name in best.without if name in have]
        said += f" (closest: {best.name}, {best.key}, which lacks {' and '.join(lacking)})"
    return said
