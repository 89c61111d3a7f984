"""What a Ray worker does for one run: it starts the run's process on its machine and relays between it and the driver.

The process is that of the local pool (`worker`), with its own number of threads, and so the records are the same. Where
the Ray worker is killed, the standard input of the process ends, and the process leaves as it does where a local parent
is gone. This module does not import Ray.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toy_models.child_process import ChildProcess

from ..records.folders import RUN_FILE
from ..records.shared_storage import SharedFolder
from .pool import Job, LocalExecutor

__all__ = ["Ending", "RayRun", "marker"]

_LISTEN_SECONDS = 0.5  # of one call; calls of an actor share its threads with `send` and `close`


@dataclass(frozen=True)
class Ending:
    """How the process of a run ended, as `pool.RunProcess` says it."""

    exit_status: int
    ending: str
    error_tail: str


def marker(folder: Path, token: str) -> Path:
    """The file by which a machine recognises that it sees the same folder as the driver."""
    return folder / f".shared-{token}"


class RayRun:
    """The actor of one run.

    Args:
        job: The run.
        token: That of the file which the driver has put into the run's folder (`marker`).
        current: The current folder of the driver, which relative paths of a recipe start from; it is entered where this
            machine has it.
        import_path: Of the driver; the run looks modules up there, as the child of a local parent does.
    """

    def __init__(self, job: Job, token: str, current: str, import_path: Sequence[str]) -> None:
        if os.path.isdir(current):
            os.chdir(current)
        sys.path[:] = dict.fromkeys([*import_path, *sys.path])
        self._child: ChildProcess | None = None
        self._lock = threading.Lock()
        self._executor = LocalExecutor()
        self._refusal = ""
        job = replace(job, makes_base=True)
        if job.url is not None:
            self._child = self._executor.start(replace(job, folder=SharedFolder(job.url).copy("writing")))
        elif marker(job.folder, token).exists():
            self._child = self._executor.start(replace(job, resume=(job.folder / RUN_FILE).exists()))
        else:
            self._refusal = (
                f"out: expected a folder that every machine of the Ray cluster sees, got {job.folder}, which "
                f"{socket.gethostname()} does not see; put the experiment on a shared file system, or give a URL"
            )

    def begin(self) -> None:
        """Return as soon as the actor exists."""

    def receive(self) -> tuple[list[Any], Ending | None]:
        """What the process has said, after a short wait, and how it ended once it has."""
        if self._child is None:
            return [{"error": self._refusal, "kind": "UsageError"}], Ending(0, "exit status 0", "")
        child = self._child
        if child.closed:
            child.wait(_LISTEN_SECONDS)
        else:
            self._executor.wait([child], _LISTEN_SECONDS)
        status = child.exit_status  # before the last look: what it said is complete then
        messages = child.receive()
        return messages, None if status is None else Ending(status, child.ending, child.error_tail())

    def send(self, value: Any) -> None:
        """Send the process a value."""
        with self._lock:
            if self._child is not None:
                self._child.send(value)

    def close(self) -> None:
        """Kill the process with what it has started."""
        with self._lock:
            if self._child is not None:
                self._child.close()
