"""Ctrl-C and SIGTERM in programs that this package is the command of: exit status 130, wherever they come.

A KeyboardInterrupt is not raised inside of an import: extension modules (torch among them) end the whole process with
SIGABRT when their initialisation is interrupted. It is put off until the import has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

__all__ = ["finish_undisturbed", "is_command", "put_off_while_importing", "stop_before_start"]

_PACKAGES = ("analysis", "rlvr_dynamics")
_SCRIPTS = ("rlvr-dynamics", "rlvr-trace")
_AGAIN = 0.02  # seconds until a signal that was put off is sent again


def is_command() -> bool:
    """Whether this process is `python -m analysis.…` or one of the installed commands, and not someone's program."""
    started = getattr(sys, "orig_argv", [])
    if "-m" in started[:-1]:
        module = started[started.index("-m") + 1]
        return module.partition(".")[0] in _PACKAGES
    return bool(sys.argv) and Path(sys.argv[0]).stem in _SCRIPTS


def stop_before_start() -> None:
    """Until the command has set up its own handling, SIGINT and SIGTERM end a command at once with status 130."""
    if is_command() and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


def put_off_while_importing(number: int, frame: FrameType | None, outermost: FrameType | None) -> bool:
    """Whether `frame`, in which the signal arrived, is part of an import; if so the signal is sent again shortly.

    Only what `outermost` has called counts: it may itself be called from a module that is being imported.
    """
    while frame is not None and frame is not outermost:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
            return True
        frame = frame.f_back
    return False


def finish_undisturbed() -> None:
    """Ignore SIGINT and SIGTERM from now on if this is a command: its work is done and its exit status is known."""
    if is_command() and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("stopped\n")
    sys.stderr.flush()
    os._exit(130)
