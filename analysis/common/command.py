"""What all command lines share: how they end.

0    done, or the reader of the output had enough
1    a fault of the program: one line, and the traceback in a file
2    an invalid request (UsageError): its message
130  Ctrl-C or SIGTERM, wherever it came: the command that resumes
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import UsageError
from .signals import finish_undisturbed, put_off_while_importing

__all__ = ["command_line", "figure_lines", "run_command", "say"]


def run_command(body: Callable[[], int | None], *, again: str | None = None, folder: Path | None = None) -> int:
    """Call `body` and turn whatever ends it into an exit status and at most one message on stderr.

    Args:
        body: The work of a command line; returns its exit status, None for 0.
        again: The command that resumes after Ctrl-C or SIGTERM, where the interruption itself does not say it.
        folder: Where the traceback of a fault goes (`error.txt`), if it exists; a temporary file otherwise.

    Returns:
        The exit status.
    """
    with _Signals() as signals:
        try:
            return _outcome(body, signals, again, folder)
        except KeyboardInterrupt:  # while the outcome was being said
            return say(_stopped(again), 130)


def _outcome(body: Callable[[], int | None], signals: _Signals, again: str | None, folder: Path | None) -> int:
    try:
        status = body() or 0
        sys.stdout.flush()
        return status
    except UsageError as error:
        return say(f"error: {error}", 2)
    except KeyboardInterrupt as error:
        return say(str(error) or _stopped(again), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if signals.came:  # some libraries turn an interrupted import into an error of their own
            return say(_stopped(again), 130)
        path = _save_traceback(folder)
        first, *_ = str(error).strip().splitlines() or [""]
        return say(f"error: {type(error).__name__}: {first} (traceback: {path})", 1)


def command_line(program: str, argv: Sequence[str] | None) -> str:
    """The command as it was typed, quoted for a shell; `argv` as `main` got it."""
    return f"{program} {shlex.join(sys.argv[1:] if argv is None else argv)}".rstrip()


def figure_lines(paths: Sequence[Path]) -> list[str]:
    """One line for each folder of figures, with how many it holds.

    >>> figure_lines([Path("runs/x/figures/a.png"), Path("runs/x/figures/b.png")])
    ['figures  runs/x/figures (2)']
    """
    return [f"figures  {folder} ({count})" for folder, count in Counter(path.parent for path in paths).items()]


def say(message: str, status: int) -> int:
    """Print a message on stderr; the exit status."""
    print(message, file=sys.stderr)
    return status


def _stopped(again: str | None) -> str:
    return "stopped; resume with\n  " + again if again else "stopped"


class _Signals:
    """Ctrl-C and SIGTERM both raise KeyboardInterrupt, also while modules are imported and figures are drawn."""

    def __init__(self) -> None:
        self.came = False
        self._frame: FrameType | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self._frame = sys._getframe(1)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._frame = None
        finish_undisturbed()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not put_off_while_importing(number, frame, self._frame):
            self.came = True
            raise KeyboardInterrupt


def _save_traceback(folder: Path | None) -> str:
    text = traceback.format_exc()
    try:
        if folder is not None and folder.is_dir():
            path = folder / "error.txt"
            path.write_text(text, encoding="utf-8")
            return str(path)
        with tempfile.NamedTemporaryFile("w", prefix="rlvr-dynamics-", suffix=".txt", delete=False) as file:
            file.write(text)
            return file.name
    except OSError:
        return text
