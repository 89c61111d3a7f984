"""A pool of child processes that answer one request at a time, each within its own time limit.

The module that a child runs (see `toy_models.child_process`) sends one value when it is ready, and then one answer for
each request, a JSON value on a line of its standard input. A child that takes too long is killed, one that dies is
replaced, and in both cases only the request that it was working on is lost.
"""

from __future__ import annotations

import select
import selectors
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..child_process import ChildProcess

__all__ = ["Failure", "StartError", "WorkerPool"]

START_SECONDS = 120.0
_END_SECONDS = 5.0  # between the end of a child's output and that of the child


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer: "timeout", or how its process ended, such as "crashed (SIGSEGV)"."""

    reason: str


class StartError(RuntimeError):
    """A child ended, or said {"error": …}, before it was ready.

    Attributes:
        told: Whether the message is what the child said.
    """

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


@dataclass(frozen=True)
class _Work:
    """A request that a child is working on."""

    index: int
    deadline: float


@dataclass
class WorkerPool:
    """At most `workers` child processes, started when they are first needed and kept for later calls.

    A child may also limit its own processor time, which does not depend on what else the machine does: one that is
    ended by SIGXCPU counts as a timeout. A pool can be pickled; its copy starts its own processes.

    Attributes:
        module: Name of the module that the children run.
        arguments: Text arguments of its `main`.
        workers: Greatest number of children at a time.
        seconds: Wall-clock time that a child may take for one request.
        start_seconds: Wall-clock time that it may take until it is ready.
    """

    module: str
    arguments: Sequence[str]
    workers: int
    seconds: float
    start_seconds: float = START_SECONDS
    _idle: list[ChildProcess] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, _close_all, self._idle)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self.module, self.arguments, self.workers, self.seconds, self.start_seconds)

    def start(self) -> Any:
        """Start one child now, for the next request.

        Returns:
            The value that it sent when it was ready.

        Raises:
            StartError: It ended before that.
        """
        child, value = self._start()
        self._idle.append(child)
        return value

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request.

        Args:
            requests: JSON values.

        Returns:
            The answer to each request, in their order, or a `Failure`.

        Raises:
            StartError: A child ended before it was ready. The message quotes its error output.
        """
        answers: list[Any] = [None] * len(requests)
        waiting = list(range(len(requests) - 1, -1, -1))
        busy: dict[ChildProcess, _Work] = {}
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or busy:
                    while waiting and len(busy) < self.workers:
                        child = self._ready()
                        index = waiting.pop()
                        busy[child] = _Work(index, _now() + self.seconds)
                        child.send(requests[index])
                        selector.register(child, selectors.EVENT_READ)
                    soonest = min(work.deadline for work in busy.values())
                    selector.select(max(0.0, soonest - _now()))
                    for child, work in list(busy.items()):
                        failure: Failure | None
                        try:
                            values = child.receive()
                        except ValueError:
                            values, failure = [], Failure("crashed (its files were written into)")
                        else:
                            if not values and not child.closed and _now() < work.deadline:
                                continue
                            failure = None if values else Failure(_ending(child) if child.closed else "timeout")
                        del busy[child]
                        selector.unregister(child)
                        if failure is None:
                            answers[work.index] = values[0]
                            self._idle.append(child)
                        else:
                            answers[work.index] = failure
                            child.close()
            finally:
                _close_all(busy)
        return answers

    def close(self) -> None:
        """End the processes; they are started again when needed."""
        _close_all(self._idle)

    def _ready(self) -> ChildProcess:
        while self._idle:
            child = self._idle.pop()
            if not child.receive() and not child.closed:  # it may have ended since, or said what nobody asked for
                return child
            child.close()
        return self._start()[0]

    def _start(self) -> tuple[ChildProcess, Any]:
        child = ChildProcess(self.module, self.arguments)
        deadline = _now() + self.start_seconds
        try:
            while not (values := child.receive()):
                if child.closed or _now() >= deadline:
                    ending = _ending(child) if child.closed else "timeout"
                    raise StartError(f"{self.module}: {ending} before it was ready\n{child.error_tail()}")
                select.select([child], [], [], max(0.0, deadline - _now()))
            if isinstance(values[0], dict) and "error" in values[0]:
                raise StartError(values[0]["error"], told=True)
        except BaseException:
            child.close()
            raise
        return child, values[0]


def _ending(child: ChildProcess) -> str:
    if not child.wait(_END_SECONDS):
        return "crashed (its files were closed)"
    return "timeout" if child.ending == "SIGXCPU" else f"crashed ({child.ending})"


def _close_all(children: list[ChildProcess] | dict[ChildProcess, _Work]) -> None:
    for child in list(children):
        child.close()
    children.clear()


def _now() -> float:
    return time.monotonic()
