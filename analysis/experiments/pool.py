"""Runs in parallel, each in its own process: starting, listening, stopping, and noticing the ones that die."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..common.stop_requests import StopRequests
from ..errors import UsageError
from ..recipes.config import config_to_dict
from ..recipes.recipe import PlannedRun
from ..records.folders import read_run_json

__all__ = ["Job", "Outcome", "run_jobs"]

_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
)
_POLL_SECONDS = 0.2
_END_SECONDS = 0.005  # between a process's closing of its output and its end
_ERROR_TAIL = 4000  # characters of a dead process's stderr that are kept
_MESSAGES = ({"event"}, {"status"}, {"error", "kind"})  # see `worker`
_OUT_OF_MEMORY = ": perhaps out of memory; --workers 1 needs less, fewer rollout.prompts or smaller minibatches too"
FINAL = ("complete", "diverged")  # statuses of a run that is done


@dataclass(frozen=True)
class Job:
    """A run, where it is written, and the function that trains it ("module:name", called as `worker` says)."""

    run: PlannedRun
    folder: Path
    resume: bool
    train: str

    def to_json(self) -> str:
        """The line that the worker reads."""
        data = {"config": config_to_dict(self.run.config), "run_id": self.run.run_id, "label": self.run.label}
        return json.dumps(data | {"folder": str(self.folder), "resume": self.resume, "train": self.train}) + "\n"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: complete, diverged, interrupted or failed; `kind` is the class of the error that ended it."""

    status: str
    message: str = ""
    kind: str = ""


@dataclass(eq=False)
class _Process:
    job: Job
    popen: subprocess.Popen[bytes]
    stderr: IO[bytes]
    data: bytes = b""
    closed: bool = False  # its output; that of a process which is gone may stay open in one that it forked
    outcome: Outcome | None = None
    last: dict[str, Any] = field(default_factory=dict)

    def ask_to_stop(self) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write(b"stop\n")
            self.popen.stdin.flush()

    def messages(self) -> list[dict[str, Any]]:
        """What has arrived since the last call, without what something else has written there."""
        assert self.popen.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while not self.closed:
                piece = os.read(self.popen.stdout.fileno(), 65536)
                self.data += piece
                self.closed = not piece
        *lines, self.data = self.data.split(b"\n")
        return [message for line in lines if (message := _message(line)) is not None]

    def end(self) -> Outcome:
        """How the process, which is gone, has ended: explained here where it did not do so itself."""
        code = self.popen.returncode
        if self.outcome is None and (status := self._final_status()) is not None:
            self.outcome = Outcome(status)
        if self.outcome is None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            where = f" in step {self.last['step']}" if "step" in self.last else ""
            hint = _OUT_OF_MEMORY if code == -signal.SIGKILL else ""
            self.outcome = Outcome("failed", f"its process {how}{where}{hint}", "ProcessDied")
            self.stderr.seek(0)
            tail = self.stderr.read().decode(errors="replace")[-_ERROR_TAIL:]
            with contextlib.suppress(OSError):
                self.job.folder.mkdir(parents=True, exist_ok=True)
                (self.job.folder / "error.txt").write_text(f"{self.outcome.message}\n{tail}", encoding="utf-8")
        return self.outcome

    def _final_status(self) -> str | None:
        """complete or diverged where the run got there before its process could say so."""
        with contextlib.suppress(UsageError, OSError):
            status = read_run_json(self.job.folder).get("status")
            return status if status in FINAL else None
        return None

    def close(self) -> None:
        """Kill the process, where it still is, and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


def run_jobs(
    jobs: Sequence[Job], *, workers: int, requests: StopRequests, on_event: Callable[[dict[str, Any]], None]
) -> dict[str, Outcome]:
    """Run all jobs, at most `workers` at a time; run_id -> outcome. A job that fails leaves the others alone.

    After one stop request no further job starts and those under way end after their present step; after a second they
    are killed. Events are those of the workers with `run_id` and `label`, and one with phase "start" and one with the
    outcome as phase for each job. Whatever is raised here (by a callback, say), no process is left behind.
    """
    waiting = list(reversed(jobs))
    running: list[_Process] = []
    outcomes: dict[str, Outcome] = {}
    asked = False
    with selectors.DefaultSelector() as selector:
        try:
            while running or (waiting and not requests.count):
                while waiting and len(running) < workers and not requests.count:
                    process = _start(waiting.pop())
                    running.append(process)
                    assert process.popen.stdout is not None
                    selector.register(process.popen.stdout, selectors.EVENT_READ, process)
                    on_event(_named(process.job, {"phase": "start", "steps": process.job.run.config.steps}))
                ended = [process for process in running if process.popen.poll() is not None]
                spoken = [key.data for key, _ in selector.select(_wait_seconds(running, ended))]
                for process in dict.fromkeys(spoken + ended):
                    for message in process.messages():
                        _take(process, message, on_event)
                    if (process.closed or process in ended) and process.popen.stdout in selector.get_map():
                        selector.unregister(process.popen.stdout)
                    if process in ended:
                        running.remove(process)
                        outcome = process.end()
                        process.close()
                        outcomes[process.job.run.run_id] = outcome
                        on_event(_named(process.job, {"phase": outcome.status, "error": outcome.message}))
                if requests.count and not asked:
                    asked = True
                    for process in running:
                        process.ask_to_stop()
                        on_event(_named(process.job, {"phase": "stopping", "note": "Ctrl-C again kills it"}))
                if requests.count > 1:
                    break
        finally:
            for process in running:
                process.close()
    stopped = [process.job for process in running] + waiting
    return outcomes | {job.run.run_id: Outcome("interrupted") for job in stopped}


def _start(job: Job) -> _Process:
    threads = str(job.run.config.threads)
    environment = os.environ | {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    with contextlib.suppress(OSError):
        (job.folder / "error.txt").unlink(missing_ok=True)
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    popen = subprocess.Popen(
        # the parent's own import path: the folder that it runs in may hold another package of our name
        [sys.executable, "-P", "-c", _START, json.dumps(sys.path), "analysis.experiments.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the parent only
    )
    assert popen.stdin is not None
    assert popen.stdout is not None
    os.set_blocking(popen.stdout.fileno(), False)
    process = _Process(job, popen, stderr)
    with contextlib.suppress(BrokenPipeError):  # it died at once; its closed output tells
        popen.stdin.write(job.to_json().encode())
        popen.stdin.flush()
    return process


def _take(process: _Process, message: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> None:
    if "event" in message:
        process.last = message["event"]
        on_event(_named(process.job, message["event"]))
    elif "status" in message:
        process.outcome = Outcome(message["status"], process.last.get("error", ""))
    else:
        process.outcome = Outcome("failed", message["error"], message["kind"])


def _wait_seconds(running: list[_Process], ended: list[_Process]) -> float:
    if ended:
        return 0.0
    return _END_SECONDS if any(process.closed for process in running) else _POLL_SECONDS


def _message(line: bytes) -> dict[str, Any] | None:
    """A line of the worker's output; None for what something else has written there."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.keys() in _MESSAGES else None


def _named(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    return event | {"run_id": job.run.run_id, "label": job.run.label}
