"""Whether a file can be written, asked before the work whose result it is to hold."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError

__all__ = ["check_output_file"]


def check_output_file(option: str, path: Path | None, suffix: str | tuple[str, ...] = "") -> None:
    """Make the file's folder and see that a file can be written there; nothing is asked of None.

    Args:
        option: The option that names the file, for the message.
        path: The file.
        suffix: What its name must end in, such as `.png`, or several of which one.

    Raises:
        UsageError: It has another suffix, is a folder, or cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option}: expected a file, got the folder {path}; name a file in it")
    suffixes = (suffix,) if isinstance(suffix, str) else suffix
    if any(suffixes) and path.suffix not in suffixes:
        raise UsageError(f"{option}: expected a file ending in {' or '.join(suffixes)}, got {path}")
    probe = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{option}: expected a file that can be written, got {path} ({error.strerror}); choose another place"
        ) from error
