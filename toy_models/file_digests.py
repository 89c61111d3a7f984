"""The SHA-256 of a file's content, computed once for a large file.

The digest of a large file is kept in the cache folder beside what tells that the file is the same: its path, device and
inode, its size and the times of its last changes to content (mtime) and to anything at all (ctime), in nanoseconds. A
program can set the first of these times, but not the second.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from .cache_folder import cache_home

__all__ = ["LARGE", "file_digest", "kept_folder"]

LARGE = 32 << 20  # bytes from which a file is large: reading it again would be felt


def file_digest(path: str | Path) -> str:
    """SHA-256 (hex) of the content of a file. Raises OSError where it cannot be read."""
    path = Path(path).resolve()
    state = path.stat()
    same = (str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return _digest(same)


@functools.lru_cache(256)
def _digest(same: tuple[str, int, int, int, int, int]) -> str:
    path, size = Path(same[0]), same[3]
    folder = kept_folder("digests") if size >= LARGE else None
    note = None if folder is None else folder / hashlib.sha256(json.dumps(same).encode()).hexdigest()
    if note is not None:
        with contextlib.suppress(OSError):
            known = note.read_text(encoding="ascii")
            if len(known) == 64:
                return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if note is not None:
        with contextlib.suppress(OSError):
            part = note.with_name(f"{note.name}.{os.getpid()}")
            part.write_text(digest, encoding="ascii")
            part.replace(note)
    return digest


def kept_folder(name: str) -> Path | None:
    """A folder in the cache folder, made where it is missing; None where nothing can be kept there."""
    folder = cache_home() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder
