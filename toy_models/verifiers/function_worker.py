"""The child process of `FunctionVerifier`: responses with their items in, what the user's function says of them out.

The function runs here, so that whatever it or the code under its judgement does to its process happens to this one:
it may exit, print, read standard input, close files, change folder, environment, locale or signals, recurse, loop or
use up memory. Before each call the process is put back as it was after the import of the user's file, random states
and the contents of modules apart. A call is limited in processor time, and the process in memory.

A request is a list of responses, each an object that `conventions` turns into arguments: one, unless the function
scores many at once. An answer is {"values": […]}, each {"score": …}, or {"correct": …, "reason": …, "score": …};
{"ended": …} where the call ended in a way that is a verdict on the response (exit, no memory, too deep a recursion);
or {"error": …} where the function is at fault.

The line between the two: a process that ends, by its own doing or by that of code under judgement, says something of
the response. A call that raises, returns no score or does not return in time says nothing, and is an error.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import fcntl
import inspect
import json
import locale
import math
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from os import _exit, getpid  # bound here, since code under judgement may take them out of `os`
from pathlib import Path
from typing import Any

from ..child_process import Send
from ..user_functions import load_function
from .conventions import Convention, convention_of
from .scores import scored_verdict
from .verifier import VERIFIERS

__all__ = ["DEFAULT_SECONDS", "main"]

DEFAULT_SECONDS = 60  # processor time of one call
_LEAST_MEMORY = 4 << 30
_SHOWN = 200  # characters of a value in a message
_SIGNALS = [s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)]


def main(send: Send, target: str, limit: str | None = None) -> None:
    """Answer requests on standard input until it ends; the first value sent is {"seconds": …} or {"error": …}.

    `limit` is the processor time of a call in seconds, which the function's attribute gives where it is left out.
    """
    requests = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 100)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _end_with_parent(requests)
    _limit_memory()
    own = getpid()
    try:
        function = load_function(target, "verifier", VERIFIERS, own_process=True)
        convention = convention_of(function, target)
        seconds = getattr(function, "seconds", DEFAULT_SECONDS) if limit is None else int(limit)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
            raise ValueError(
                f"verifier {target}: expected a whole number of seconds in its attribute seconds, got {seconds!r}"
            )
    except ValueError as error:
        send({"error": str(error)})
        return
    except BaseException as error:
        send({"error": f"verifier: {target} cannot be imported: it ends with {_name(error)}"})
        return
    if getpid() != own:
        _exit(0)
    optional = None if convention.optional is None else list(convention.optional)
    columns = {"required": list(convention.required), "optional": optional}
    send({"seconds": seconds, "convention": convention.name, "batch": convention.batch, "columns": columns})
    call = partial(_called, function, convention, _Loop())
    state = _ProcessState()
    with open(requests, "rb", closefd=False) as lines:
        for line in lines:
            state.forget_output()
            _limit_time(seconds)
            try:
                answer = _answer(call, json.loads(line), state)
            finally:
                if getpid() != own:  # a copy of this process that the code made and let run on
                    _exit(0)
            state.restore()
            send(answer)


class _Loop:
    """The event loop of `async` functions, one for all calls, so that clients that they keep open stay usable."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def result(self, awaitable: Any) -> Any:
        """What an awaitable gives; a loop that it breaks is replaced."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        try:
            return self._loop.run_until_complete(awaitable)
        except BaseException:
            loop, self._loop = self._loop, None
            with contextlib.suppress(Exception):
                loop.close()
            raise


def _called(function: Callable[..., Any], convention: Convention, loop: _Loop, requests: list[Any]) -> list[Any]:
    """What the function returns for each request."""
    positional, named = convention.arguments(requests)
    value = function(*positional, **named)
    if inspect.isawaitable(value):
        value = loop.result(value)
    if not convention.batch:
        return [value]
    values = list(value) if hasattr(value, "__len__") and not isinstance(value, str | dict) else None
    if values is None or len(values) != len(requests):
        number = f"{len(requests)} number{'s' if len(requests) > 1 else ''}"
        raise _NoScoreError(f": expected a list of {number}, one for each completion, got {_shown(value)}")
    return values


def _answer(call: Callable[[list[Any]], list[Any]], requests: list[Any], state: _ProcessState) -> dict[str, Any]:
    try:
        try:
            values = call(requests)
        finally:
            state.restore_names()
        return {"values": [_plain(value) for value in values]}
    except (MemoryError, RecursionError) as error:
        return {"ended": f"failed ({type(error).__name__})"}
    except _NoScoreError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f" failed with {type(error).__name__}: {_shown(error, str)}"}
    except SystemExit as error:
        return {"ended": f"ended by exit({'' if error.code is None else _shown(error.code)})"}
    except BaseException as error:
        return {"ended": f"ended by {_name(error)}"}


class _NoScoreError(Exception):
    """A function returned something that is not a score."""


def _plain(value: Any) -> dict[str, Any]:
    """What a function returned, as a JSON value."""
    if isinstance(value, dict) and "score" in value:  # of verl
        value = value["score"]
    try:
        verdict = scored_verdict(value)
    except ValueError as error:
        raise _NoScoreError(f": {error}") from None
    return {"correct": bool(verdict.correct), "reason": str(verdict.reason), "score": verdict.score}


def _name(error: BaseException) -> str:
    return f"exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__


def _shown(value: Any, text: Callable[[Any], str] = repr) -> str:
    try:
        shown = text(value)
    except Exception:
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + " …"


class _ProcessState:
    """What code can change of its process, as it is now; `restore` brings it back."""

    def __init__(self) -> None:
        self._folder = os.getcwd()
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._environment = dict(os.environ)
        self._locale = locale.setlocale(locale.LC_ALL)
        self._recursion = sys.getrecursionlimit()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._encoding = sys.stdout.encoding, sys.stdout.errors
        self._descriptors = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in range(3)]
        self._names = [(module, dict(vars(module))) for module in (builtins, os, shutil, signal, subprocess, time)]
        self._import_path = list(sys.path)

    def restore_names(self) -> None:
        for module, names in self._names:
            module.__dict__.update(names)

    def restore(self) -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for descriptor, saved in enumerate(self._descriptors):
            with contextlib.suppress(OSError):
                os.dup2(saved, descriptor)
        encoding, errors = self._encoding
        sys.stdin, sys.stdout, sys.stderr = (
            open(descriptor, mode, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
            for descriptor, mode in enumerate(("r", "w", "w"))
        )
        with contextlib.suppress(OSError):
            os.chdir(self._folder)
        os.umask(self._mask)
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        sys.setrecursionlimit(self._recursion)
        sys.path[:] = self._import_path

    def forget_output(self) -> None:
        """What the last call printed was kept for messages until now."""
        with contextlib.suppress(OSError):
            os.lseek(1, 0, 0)
            os.ftruncate(1, 0)


def _limit_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _limit_memory() -> None:
    """Data of half the machine's memory, and this process the first to go where the machine has none left."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with contextlib.suppress(OSError, ValueError):  # not every system allows it
        limit, hard = max(_LEAST_MEMORY, total // 2), resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent(requests: int) -> None:
    """Start a process that ends this one, with every process that it has started, when its parent is gone.

    It cannot be this process, which may be in a loop of the user's code. It is not a child of it either, so that code
    may wait for all of its children.
    """
    ours, theirs = os.pipe()
    if (middle := os.fork()) == 0:
        if os.fork():
            _exit(0)
        first, second = sorted((requests, ours))
        for low, high in ((0, first), (first + 1, second), (second + 1, 4096)):
            os.closerange(low, high)
        waiting = select.poll()
        waiting.register(requests, 0)  # its end alone: what arrives there is not for us
        waiting.register(ours, 0)
        waiting.poll()
        os.killpg(0, signal.SIGKILL)
    os.waitpid(middle, 0)
    os.close(ours)
    fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(theirs)
