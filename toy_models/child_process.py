"""Child processes that run a Python module and exchange JSON values with their parent, one value a line.

The child runs `main(send, *arguments)` of the module: `send(value)` writes a value to the parent, and the lines that
the parent sends arrive on standard input. Values travel through a separate pipe. Whatever a library prints in the
child goes to its error output, which is kept for error messages and cannot mix with the values.

These are plain child processes rather than `multiprocessing`, so that notebooks and scripts without a main guard can
start them. A child looks modules up where its parent does, whatever the folder it runs in holds. It has its own
session, so that Ctrl-C reaches the parent alone, and the end of its standard input tells it that the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

__all__ = ["ChildProcess", "Send", "run_module"]

# Writes one value to the parent. Raises BrokenPipeError where the parent is gone.
Send = Callable[[Any], None]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__name__} import run_module; run_module(*sys.argv[2:])"
)
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[1])
_TAIL = 4000  # characters of the error output that are kept for a message


class ChildProcess:
    """A running child. As a context manager it is killed at the end of the block, also where an exception ends it.

    A child can be registered with a selector: it is readable when values have arrived or its output is closed.

    Args:
        module: Name of the module whose `main` the child runs.
        arguments: Text arguments for `main`, after `send`.
        environment: Variables that are set for the child besides those of this process.

    Attributes:
        closed: Whether the child has closed its output, which it does at its end at the latest.
    """

    def __init__(
        self, module: str, arguments: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.closed = False
        self._unread = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self._process = subprocess.Popen(
                # -P: Python adds no folder to the import path before it is set to that of the parent
                [sys.executable, "-P", "-c", _START, json.dumps(_import_path()), str(output), module, *arguments],
                stdin=subprocess.PIPE,
                stdout=self._errors,
                stderr=self._errors,
                env={**os.environ, **(environment or {})},
                pass_fds=(output,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._output)
            self._errors.close()
            raise
        finally:
            os.close(output)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of the process, and of its process group."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status of the child, negative for the signal that ended it; None while it is running."""
        return self._process.poll()

    @property
    def ending(self) -> str:
        """How the child ended, waiting for its end: "exit status 3", or the name of a signal such as "SIGKILL"."""
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def wait(self, seconds: float) -> bool:
        """Whether the child has ended, after at most so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def fileno(self) -> int:
        """File descriptor of the child's output, for `select` and selectors."""
        return self._output

    def send(self, value: Any) -> None:
        """Send a value to the child. Nothing happens where the child has ended: its closed output tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> list[Any]:
        """The values that have arrived since the last call, without waiting; `closed` tells whether more can come."""
        with contextlib.suppress(BlockingIOError):
            while not self.closed:
                piece = os.read(self._output, 1 << 16)
                self._unread += piece
                self.closed = not piece
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def values(self) -> Iterator[Any]:
        """Each value as it arrives, until the child closes its output."""
        while not self.closed:
            select.select([self], [], [])
            yield from self.receive()

    def error_tail(self) -> str:
        """The last characters of what the child has written to its standard output and error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-_TAIL:]

    def close(self) -> None:
        """Kill the child, where it is still running, with every process that it has started; free what it held."""
        if self._errors.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._output)
        self._errors.close()


def run_module(output: str, module: str, *arguments: str) -> None:
    """In the child: run `main(send, *arguments)` of the module, `output` being the descriptor that values go to."""
    channel = int(output)
    os.set_inheritable(channel, False)

    def send(value: Any) -> None:
        data = json.dumps(value).encode() + b"\n"
        while data:  # a signal may cut a long write short
            data = data[os.write(channel, data) :]

    importlib.import_module(module).main(send, *arguments)


def _import_path() -> list[str]:
    """The import path of this process, on which a child finds this package again."""
    return sys.path if _PACKAGE_PARENT in sys.path else [*sys.path, _PACKAGE_PARENT]
