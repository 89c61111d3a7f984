"""The folder in which things lie that take long to make and can be made again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

__all__ = ["cache_home", "made_once"]


def cache_home() -> Path:
    """`$RLVR_DYNAMICS_CACHE`, by default `~/.cache/rlvr-dynamics`."""
    home = os.environ.get("RLVR_DYNAMICS_CACHE")
    if home:
        return Path(home).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "rlvr-dynamics"


def made_once(folder: Path, is_whole: Callable[[Path], bool], make: Callable[[Path], None], what: str) -> Path:
    """A folder of the cache, which is made first if it is not whole.

    Several processes may call this at once: one of them makes it, the others wait. It gets its name when everything is
    in it, so that an interruption leaves no half of it there.

    Args:
        folder: Where it lies.
        is_whole: Whether a folder holds everything.
        make: Fills a folder that it is given.
        what: What the cache holds, for the message.

    Returns:
        The folder.

    Raises:
        OSError: The cache cannot be written.
    """
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.parent / f".{folder.name}.lock").acquire()
    except OSError as error:
        raise OSError(
            f"cannot write the cache of {what} {folder.parent} ({error.strerror or error}); "
            "set RLVR_DYNAMICS_CACHE to a writable folder"
        ) from error
    with held:
        if is_whole(folder):
            return folder
        for stale in (folder, *folder.parent.glob(f".{folder.name}.tmp-*")):
            shutil.rmtree(stale, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
        try:
            make(unfinished)
            unfinished.chmod(0o755)  # mkdtemp makes it private
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder
