"""The Python that runs the packages: new enough, and with their dependencies.

Its message must not need what it misses: this file parses on Python 3.6 and imports the standard library alone.
"""

import importlib.util
import sys

__all__ = ["check_interpreter"]


def check_interpreter() -> None:
    """Stop with one readable message where this Python is too old or lacks the dependencies.

    Raises:
        ImportError: With that message; `python -m …` ends with it and status 2, since a traceback would hide it.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - the message for a Python that is too old must not need a new one
        _refuse("expected Python 3.11 or newer")
    if importlib.util.find_spec("lazy_loader") is None:  # the first of the dependencies that any import needs
        _refuse(
            "the dependencies are missing from this Python; activate the project's environment "
            "(source .venv/bin/activate), or install the package with pip install -e ."
        )


def _refuse(problem: str) -> None:
    message = "rlvr-dynamics: {} (this is {}, Python {}.{})".format(problem, sys.executable, *sys.version_info[:2])
    if sys.argv[:1] == ["-m"]:
        sys.stderr.write("error: " + message + "\n")
        sys.exit(2)
    raise ImportError(message)
