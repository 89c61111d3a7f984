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

__all__ = ["Failure", "WorkerPool"]

START_SECONDS = 120.0


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer: "timeout", or how its process ended, such as "crashed (SIGSEGV)"."""

    reason: str


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
    """

    module: str
    arguments: Sequence[str]
    workers: int
    seconds: float
    _idle: list[ChildProcess] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, _close_all, self._idle)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self.module, self.arguments, self.workers, self.seconds)

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request.

        Args:
            requests: JSON values.

        Returns:
            The answer to each request, in their order, or a `Failure`.

        Raises:
            RuntimeError: A child ended before it was ready. The message quotes its error output.
        """
        answers: list[Any] = [None] * len(requests)
        waiting = list(range(len(requests) - 1, -1, -1))
        busy: dict[ChildProcess, _Work] = {}
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or busy:
                    while waiting and len(busy) < self.workers:
                        child = self._idle.pop() if self._idle else self._start()
                        index = waiting.pop()
                        busy[child] = _Work(index, _now() + self.seconds)
                        child.send(requests[index])
                        selector.register(child, selectors.EVENT_READ)
                    soonest = min(work.deadline for work in busy.values())
                    selector.select(max(0.0, soonest - _now()))
                    for child, work in list(busy.items()):
                        values = child.receive()
                        if not values and not child.closed and _now() < work.deadline:
                            continue
                        del busy[child]
                        selector.unregister(child)
                        if values:
                            answers[work.index] = values[0]
                            self._idle.append(child)
                        else:
                            answers[work.index] = Failure(_ending(child) if child.closed else "timeout")
                            child.close()
            finally:
                _close_all(busy)
        return answers

    def close(self) -> None:
        """End the processes; they are started again when needed."""
        _close_all(self._idle)

    def _start(self) -> ChildProcess:
        child = ChildProcess(self.module, self.arguments)
        deadline = _now() + START_SECONDS
        try:
            while not child.receive():
                if child.closed or _now() >= deadline:
                    ending = _ending(child) if child.closed else "timeout"
                    raise RuntimeError(f"{self.module}: {ending} before it was ready\n{child.error_tail()}")
                select.select([child], [], [], max(0.0, deadline - _now()))
        except BaseException:
            child.close()
            raise
        return child


def _ending(child: ChildProcess) -> str:
    return "timeout" if child.ending == "SIGXCPU" else f"crashed ({child.ending})"


def _close_all(children: list[ChildProcess] | dict[ChildProcess, _Work]) -> None:
    for child in list(children):
        child.close()
    children.clear()


def _now() -> float:
    return time.monotonic()
