"""A pool of processes that answer one request at a time, each within a time limit of its own.

A process reads a JSON value a line from its standard input and writes one back; its first line, before any request,
says that it is ready. One that takes too long is killed, one that dies is replaced, and either costs its own request
only. Plain child processes rather than multiprocessing, so that scripts without a main guard and notebooks can use
them; they end with their parent, whose death closes their input.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = ["Failure", "WorkerPool"]

START_SECONDS = 120.0
_TAIL = 2000  # characters of a dead process's stderr in a message


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer: "timeout", or how its process died."""

    reason: str


@dataclass
class _Worker:
    popen: subprocess.Popen[bytes]
    stderr: IO[bytes]
    request: int | None = None
    deadline: float = 0.0
    data: bytes = b""

    def send(self, index: int, request: Any, seconds: float) -> None:
        assert self.popen.stdin is not None
        self.request, self.deadline = index, time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # it died in between; the end of its output says so
            self.popen.stdin.write(json.dumps(request).encode() + b"\n")
            self.popen.stdin.flush()

    def line(self) -> bytes | None:
        """A whole line where one has come, b"" where not yet, None where the process has closed its output."""
        assert self.popen.stdout is not None
        piece = os.read(self.popen.stdout.fileno(), 65536)
        self.data += piece
        whole, newline, rest = self.data.partition(b"\n")
        if newline:
            self.data = rest
            return whole
        return b"" if piece else None

    def end(self, *, kill: bool) -> str:
        """Kill it, or wait for one that has closed its output; how it ended, in words."""
        if kill:
            self.popen.kill()
        code = self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        if kill or code == -getattr(signal, "SIGXCPU", 0):
            return "timeout"
        return f"crashed ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"

    def last_words(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace").strip()[-_TAIL:]


@dataclass
class WorkerPool:
    """At most `workers` processes of `command`, started when they are first needed.

    A request whose process says nothing for `seconds` of wall-clock time is a `Failure`; a process may also limit
    itself in processor time (SIGXCPU), which does not depend on what else the machine does. Modules are found in the
    folder `import_from` first. A pool can be pickled; what comes back starts processes of its own.
    """

    command: Sequence[str]
    workers: int
    seconds: float
    import_from: str = ""
    _idle: list[_Worker] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, _end_all, self._idle)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self.command, self.workers, self.seconds, self.import_from)

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """The answer to each request, in their order, or a `Failure`.

        Raises RuntimeError, with its last words, where a process ends before it is ready.
        """
        answers: list[Any] = [None] * len(requests)
        waiting = list(range(len(requests) - 1, -1, -1))
        busy: list[_Worker] = []
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or busy:
                    while waiting and len(busy) < self.workers:
                        worker = self._idle.pop() if self._idle else self._start()
                        worker.send(index := waiting.pop(), requests[index], self.seconds)
                        busy.append(worker)
                        assert worker.popen.stdout is not None
                        selector.register(worker.popen.stdout, selectors.EVENT_READ, worker)
                    soonest = min(worker.deadline for worker in busy)
                    ready = {key.data.popen.pid: key.data for key, _ in selector.select(max(0.0, soonest - _now()))}
                    for worker in list(busy):
                        line = worker.line() if worker.popen.pid in ready else b""
                        if line == b"" and _now() < worker.deadline:
                            continue
                        assert worker.request is not None
                        busy.remove(worker)
                        selector.unregister(worker.popen.stdout)  # type: ignore[arg-type]
                        if line:
                            answers[worker.request] = json.loads(line)
                            self._idle.append(worker)
                        else:
                            answers[worker.request] = Failure(worker.end(kill=line is not None))
                            worker.stderr.close()
            finally:
                _end_all(busy)
        return answers

    def _start(self) -> _Worker:
        path = os.pathsep.join(filter(None, [self.import_from, os.environ.get("PYTHONPATH")]))
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        popen = subprocess.Popen(
            list(self.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )
        worker = _Worker(popen, stderr, deadline=_now() + START_SECONDS)
        assert popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(popen.stdout, selectors.EVENT_READ)
            line: bytes | None = b""
            while line == b"" and _now() < worker.deadline:
                line = worker.line() if selector.select(max(0.0, worker.deadline - _now())) else b""
        if not line:
            how = worker.end(kill=line is not None)
            raise RuntimeError(f"{' '.join(self.command)}: {how} before it was ready\n{worker.last_words()}")
        return worker

    def close(self) -> None:
        """End the processes; they are started again when needed."""
        _end_all(self._idle)


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        worker = workers.pop()
        worker.end(kill=True)
        worker.stderr.close()


def _now() -> float:
    return time.monotonic()
