"""`report.html`: the page of runs as one file that opens from disk. Nothing is fetched when it is opened."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..records.folders import write_durably
from .page_assets import PAGE_FILE, filled
from .page_data import page_data
from .sources import Source
from .summary import Summary

__all__ = ["PAGE_FILE", "check_page_file", "write_report_page"]

MOST_BYTES = 10_000_000
TOKENS = 60_000  # shown of all runs together


def write_report_page(
    source: Source, path: str | Path | None = None, *, summary: Summary | None = None, tokens: int = TOKENS
) -> Path:
    """Write the page of an experiment, of a run of any kind, or of several runs.

    Args:
        source: an `Experiment`, a `Run` (trained, attached, watched or traced), or a list of runs.
        path: the file; unset: `report.html` in the folder of the experiment or run, of several runs in the current
            folder.
        summary: the tables, where they have been made already.
        tokens: how many tokens are shown at most. Fewer are taken until the page has less than 10 MB; the page says
            how many there were.

    Returns:
        The path.

    Raises:
        UsageError: nothing is committed yet, `tokens` is below 1, or `path` is a folder.

    Example:
        >>> write_report_page(analysis.load_trace("runs/…"))  # doctest: +SKIP
    """
    if tokens < 1:
        raise UsageError(f"tokens: expected 1 or more, got {tokens}; leave it out for {TOKENS:,}")
    folder = getattr(source, "folder", None)
    target = Path(path) if path is not None else Path(folder or ".") / PAGE_FILE
    check_page_file(target)
    while True:
        data = page_data(source, tokens, summary)
        text = filled(data.header, data.block).encode("utf-8")
        if len(text) <= MOST_BYTES or tokens == 1:
            break
        tokens = max(1, int(tokens * min(0.9, MOST_BYTES / len(text))))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_durably(target, text)
    return target


def check_page_file(path: Path) -> None:
    """Refuse a path that is not that of a file, before any work is done."""
    if path.is_dir():
        raise UsageError(
            f"--page: expected a file, got the folder {path}; name a file in it, such as {path / PAGE_FILE}"
        )
    parent = next(folder for folder in path.resolve().parents if folder.exists())
    if not parent.is_dir():
        raise UsageError(
            f"--page: expected a file in a folder, got {path}, but {parent} is a file; choose another path"
        )
