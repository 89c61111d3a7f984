"""Errors that a user can fix, apart from failures of the program, and the index that their messages name.

`UsageError` means: the request was wrong, here is what was expected, what came and how to fix it. Command lines print
it as one message and exit with status 2; every other exception is a failure of the program (traceback to a file,
status 1).
"""

from __future__ import annotations

from typing import Any

__all__ = ["DivergedError", "InterruptedRunError", "UsageError", "at_index", "first_index"]


class UsageError(ValueError):
    """An invalid request; the message names the argument, what was expected, what came and how to fix it."""


class InterruptedRunError(UsageError):
    """A folder holds an unfinished experiment of the same recipe; the message gives the command that resumes it."""


class DivergedError(ArithmeticError):
    """A non-finite loss or gradient in training; the message names the update and the first offending tokens."""


def first_index(bad: Any) -> tuple[int, ...]:
    """Index of the first True entry, in row-major order, of a boolean NumPy array or torch tensor.

    It imports neither library. Raises ValueError where every entry is False.

    >>> import numpy as np
    >>> first_index(np.array([[False, False], [False, True]]))
    (1, 1)
    """
    position = bad.reshape(-1).tolist().index(True)
    index: list[int] = []
    for size in reversed(bad.shape):
        position, place = divmod(position, size)
        index.insert(0, place)
    return tuple(index)


def at_index(index: tuple[int, ...]) -> str:
    """An index as the end of "got nan": empty for a single number, one integer on one axis, otherwise a tuple.

    >>> [at_index(()), at_index((2,)), at_index((2, 0))]
    ['', ' at index 2', ' at index (2, 0)']
    """
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""
