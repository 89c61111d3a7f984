"""Ctrl-C and SIGTERM as requests that a loop looks at when it can stop."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from .signals import put_off_while_importing

__all__ = ["StopRequests"]


class StopRequests:
    """Counts SIGINT and SIGTERM while it is entered (in the main thread; elsewhere signals are left alone).

    While `interrupt` is set they raise KeyboardInterrupt as well, for work that cannot be asked to stop; with
    `patience` the requests after so many do, for work that is asked first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.interrupt = True
        self.patience: int | None = None
        self._before: dict[int, Any] = {}
        self._frame: FrameType | None = None

    def __enter__(self) -> StopRequests:
        self._frame = sys._getframe(1)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._frame = None

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.interrupt and put_off_while_importing(number, frame, self._frame):
            return
        self.count += 1
        if self.interrupt or (self.patience is not None and self.count > self.patience):
            raise KeyboardInterrupt
