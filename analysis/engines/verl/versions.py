"""The versions of verl that this package was tested with, and what is said of any other.

verl names no stable interface for engines, so a version outside the range is refused and not tried.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from ...errors import UsageError

__all__ = ["TESTED_VERL", "check_verl", "require_verl", "verl_version"]

TESTED_VERL = ("0.9.1", "0.9.1")  # the oldest and newest versions of verl that `make test-verl` was run on
INSTALL = "see docs/how_to/watch_a_verl_run.md"


def verl_version() -> str | None:
    """The version of verl that is installed in this Python, None where there is none."""
    try:
        return version("verl")
    except PackageNotFoundError:
        return None


def check_verl(installed: str | None) -> None:
    """Raise where verl is missing or outside the tested range.

    Args:
        installed: The version of verl, None where it is not installed; see `verl_version`.

    Raises:
        ImportError: verl is not installed.
        UsageError: It is installed in another version.
    """
    oldest, newest = TESTED_VERL
    wanted = f"verl {oldest}" if oldest == newest else f"verl {oldest} to {newest}"
    if installed is None:
        raise ImportError(
            f"analysis.engines.verl: expected {wanted}, got none; install the extra `verl` into an environment of its "
            f"own, {INSTALL}"
        )
    if not Version(oldest) <= Version(installed) <= Version(newest):
        raise UsageError(
            f"analysis.engines.verl: expected {wanted}, the tested range, got verl {installed}; install verl "
            f"{newest}, {INSTALL}"
        )


def require_verl() -> None:
    """`check_verl` of the installed version; `python -m` of this package ends with its message and status 2."""
    try:
        check_verl(verl_version())
    except (ImportError, UsageError) as error:
        if sys.argv[:1] != ["-m"]:
            raise
        sys.stderr.write(f"error: {error}\n")  # Python is still looking for the module: a traceback would hide it
        sys.exit(2)
