"""Errors that a user can mend, apart from those that are ours.

`UsageError` means: the request was wrong, here is what was expected, what came and how to fix it. Command lines print
it as one message and exit with status 2; every other exception is a failure of the program (traceback to a file,
status 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DivergedError", "InterruptedRunError", "UsageError", "nearest"]


class UsageError(ValueError):
    """A request that cannot be met as stated; the message names the argument, what was expected and what came."""


class InterruptedRunError(UsageError):
    """A folder holds an unfinished experiment of the same recipe; the message gives the command that resumes it."""


class DivergedError(ArithmeticError):
    """A non-finite loss or gradient in training; the message names the update and the first offending tokens."""


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Suggestion text for an unknown name: its closest matches whatever their case, or all known names.

    >>> nearest("lamda", ["lambda", "form", "clip_low"])
    'did you mean lambda?'
    >>> nearest("zzz", ["form", "name"])
    'known: form, name'
    """
    names = sorted(known)
    folded: dict[str, str] = {}
    for one in names:
        folded.setdefault(one.casefold(), one)
    close = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=0.6)]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
