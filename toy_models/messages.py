"""Suggestions for an unknown name, which many error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest", "unknown_name"]


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """The suggestion for an unknown name: its closest matches in any case, or all known names.

    >>> nearest("lamda", ["lambda", "form", "clip_low"])
    'did you mean lambda?'
    >>> nearest("zzz", ["form", "name"])
    'known: form, name'
    """
    names = sorted(known)
    folded: dict[str, str] = {}
    for known_name in names:
        folded.setdefault(known_name.casefold(), known_name)
    close = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=0.6)]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: what was expected, what came, and the closest matches.

    >>> unknown_name("task", "paht", ["path"])
    "task: expected one of path, got 'paht'; did you mean path?"
    """
    names = list(known)
    suggestion = nearest(name, names)
    hint = f"; {suggestion}" if suggestion.startswith("did you mean") else ""
    return f"{what}: expected one of {', '.join(names)}, got {name!r}{hint}"
