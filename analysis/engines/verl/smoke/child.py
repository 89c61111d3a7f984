"""The process that trains: started in a session of its own, watched through verl's log of metrics, ended as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .platform import ENVIRONMENT

__all__ = ["Child", "fault"]

STOP_SECONDS = 30.0
"""How long Ray may take to end its processes before they are killed."""

_ROOT = Path(__file__).resolve().parents[4]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WORKER = re.compile(r"\(\w+ pid=\d+(?:, ip=[\d.]+)?\) ")


class Child:
    """A command of verl on the platform `cpu`, with everything that it starts.

    Args:
        command: After the name of the Python interpreter.
        log: File that takes what it and its workers print.
        metrics: File that verl writes the metrics of each step to, as JSON lines.
    """

    def __init__(self, command: Sequence[str], log: Path, metrics: Path) -> None:
        self.metrics = metrics
        variables = {
            **os.environ,
            **ENVIRONMENT,
            "VERL_USE_EXTERNAL_MODULES": "analysis.engines.verl",
            "VERL_FILE_LOGGER_PATH": str(metrics.resolve()),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's workers would give way to every other process of the machine
            "HYDRA_FULL_ERROR": "1",
        }
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, told: Callable[[int, Mapping[str, Any]], None], seconds: float = 0.5) -> int:
        """Wait for the end; returns the exit status.

        Args:
            told: Called with the number and the metrics of each step, as they come; validation before the first step
                has the number 0.
            seconds: Between two looks.
        """
        steps = self._steps()
        while True:
            ended = self.process.poll() is not None
            for step, metrics in steps:
                if step is None:
                    break
                told(step, metrics)
            if ended:
                return int(self.process.wait())
            time.sleep(seconds)

    def _steps(self) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
        """Step and metrics of each complete line of the log; (None, {}) whenever no further line is there yet."""
        place = 0
        while True:
            text = b""
            if self.metrics.is_file():
                with self.metrics.open("rb") as file:
                    file.seek(place)
                    text = file.read()
            *lines, _ = text.split(b"\n")
            for line in lines:
                place += len(line) + 1
                row = json.loads(line)
                yield row["step"], row["data"]
            yield None, {}

    def stop(self) -> None:
        """End the command as Ctrl-C does, and then whatever is left of its session: no process of Ray stays."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        until = time.monotonic() + STOP_SECONDS / 3
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        for number in left:
            _kill(number)

    def processes(self) -> list[int]:
        """The processes of its session, those of Ray among them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    session = os.getsid(int(entry.name))
                except (ProcessLookupError, PermissionError):
                    continue
                if session == self.process.pid and int(entry.name) != self.process.pid:
                    found.append(int(entry.name))
        return found


def _kill(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def fault(log: str) -> str:
    """What a log says of the error that ended the command.

    An `error:` line if there is one. Otherwise the last traceback, and before it the first one that a worker of Ray
    printed: verl goes on after an error in a rollout or a reward, and fails later for want of its result.

    Args:
        log: All that was printed.

    Returns:
        The lines, without the colours and names that Ray puts in front of them; the last lines where nothing is found.

    Example:
        >>> lines = ["Traceback (most recent call last):", "  …", "KeyError: 1"]
        >>> print(fault("\\n".join(f"(Agent pid=7) {line}" for line in lines)))
        Traceback (most recent call last):
          …
        KeyError: 1
    """
    lines = _COLOUR.sub("", log).splitlines()
    errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :])
    found = []
    starts = [place for place, line in enumerate(lines) if line.endswith("Traceback (most recent call last):")]
    if workers := [place for place in starts if _WORKER.match(lines[place])]:
        found += _traceback(lines, workers[0])
    if drivers := [place for place in starts if not _WORKER.match(lines[place])]:
        found += lines[drivers[-1] :]
    return "\n".join(found or lines[-20:])


def _traceback(lines: Sequence[str], start: int) -> list[str]:
    """The traceback of a worker from its first line to that of the error, the lines of other workers left out.

    Where the error came from another worker, its traceback follows, indented, and then its error.
    """
    worker = _WORKER.match(lines[start])
    prefix = worker[0] if worker else ""
    texts = [line[len(prefix) :] for line in lines[start:] if line.startswith(prefix)]
    indented = [text.startswith((" ", "\t")) for text in texts] + [False]
    ends = (i for i, text in enumerate(texts) if i and text and not indented[i] and not indented[i + 1])
    return texts[: next(ends, len(texts)) + 1]
