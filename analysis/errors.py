"""Errors that a user can mend, apart from those that are ours.

`UsageError` means: the request was wrong, here is what was expected, what came and how to fix it. Command lines print
it as one message and exit with status 2; every other exception is a failure of the program (traceback to a file,
status 1).
"""

from __future__ import annotations

__all__ = ["DivergedError", "InterruptedRunError", "UsageError"]


class UsageError(ValueError):
    """A request that cannot be met as stated; the message names the argument, what was expected and what came."""


class InterruptedRunError(UsageError):
    """A folder holds an unfinished experiment of the same recipe; the message gives the command that resumes it."""


class DivergedError(ArithmeticError):
    """A non-finite loss or gradient in training; the message names the update and the first offending tokens."""
