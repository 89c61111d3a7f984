"""Runs in parallel, each in its own process: starting, listening, stopping, and noticing the ones that die.

Where the processes run is the business of an `Executor`: `LocalExecutor` starts them on this machine,
`ray_executor.RayExecutor` on those of a Ray cluster.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from toy_models.child_process import ChildProcess

from ..common.stop_requests import StopRequests
from ..errors import UsageError
from ..recipes.config import config_to_dict
from ..recipes.fields import RunConfig
from ..recipes.plan import runs_at_a_time
from ..recipes.recipe import PlannedRun
from ..records.folders import FINAL, read_run_json

__all__ = ["Executor", "Job", "LocalExecutor", "Outcome", "RunProcess", "run_jobs"]

_POLL_SECONDS = 0.2
_END_SECONDS = 0.005  # between a process's closing of its output and its end
_OUT_OF_MEMORY = ": perhaps out of memory; --workers 1 needs less, fewer rollout.prompts or smaller minibatches too"
# glibc gives large blocks back to the system and asks for them anew in every forward pass, which costs a tenth of an
# evaluation in page faults; kept, they are reused. Other C libraries do not read these.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


@dataclass(frozen=True)
class Job:
    """A run, where it is written, and the function that trains it ("module:name", called as `worker` says).

    With a `url`, the folder is the local copy of what is written there (`records.shared_storage`). With `makes_base`,
    the process first pretrains a built-in base that its machine lacks; otherwise that was done before. With `kept` it
    waits for another job when this one is done.
    """

    run: PlannedRun
    folder: Path
    resume: bool
    train: str
    url: str | None = None
    makes_base: bool = False
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """What the worker is sent."""
        return {
            "config": config_to_dict(self.run.config),
            "run_id": self.run.run_id,
            "label": self.run.label,
            "folder": str(self.folder),
            "resume": self.resume,
            "train": self.train,
            "url": self.url,
            "makes_base": self.makes_base,
            "kept": self.kept,
        }


@dataclass(frozen=True)
class Outcome:
    """How a run ended: complete, diverged, interrupted or failed; `kind` is the class of the error that ended it."""

    status: str
    message: str = ""
    kind: str = ""


class RunProcess(Protocol):
    """The process of one run, as `toy_models.child_process.ChildProcess` describes it."""

    @property
    def closed(self) -> bool:
        """Whether no more can come from it."""

    @property
    def exit_status(self) -> int | None:
        """None while it is running, negative for the signal that ended it."""

    @property
    def ending(self) -> str:
        """How it ended: "exit status 3", or the name of a signal."""

    def send(self, value: Any) -> None:
        """Send it a value."""

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived from it since the last call, without waiting."""

    def error_tail(self) -> str:
        """The last characters of its error output."""

    def close(self) -> None:
        """Kill it where it is still running, and free what it held."""


class Executor(Protocol):
    """Where the processes of runs are started."""

    def at_a_time(self, configs: Sequence[RunConfig], workers: int | None) -> int:
        """How many runs are trained at a time: `workers`, by default as many as there are cores for."""

    def start(self, job: Job) -> RunProcess:
        """Start the process of a run."""

    def wait(self, processes: Sequence[RunProcess], seconds: float) -> list[RunProcess]:
        """Those from which something has arrived, after at most so many seconds."""

    def take_back(self, process: RunProcess) -> bool:
        """Whether a process whose run is done is kept for another one; otherwise it ends by itself."""


class LocalExecutor:
    """Processes of this machine. As a context manager it ends those that are kept.

    Args:
        keep: Whether a process trains one run after another, which loads the libraries once (some five seconds of
            processor time a run). Records do not depend on it.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._threads: dict[RunProcess, int] = {}
        self._idle: dict[int, list[ChildProcess]] = {}  # by their number of threads

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for child in (child for children in self._idle.values() for child in children):
            child.close()

    def at_a_time(self, configs: Sequence[RunConfig], workers: int | None) -> int:
        return runs_at_a_time(configs, workers)

    def start(self, job: Job) -> ChildProcess:
        threads = job.run.config.threads
        with contextlib.suppress(OSError):
            (job.folder / "error.txt").unlink(missing_ok=True)
        child = None
        while child is None and self._idle.get(threads):
            child = self._idle[threads].pop()
            if child.exit_status is not None:  # killed while it waited
                child.close()
                child = None
        if child is None:
            child = ChildProcess(
                f"{__package__}.worker",
                environment={f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")} | _MEMORY,
            )
        self._threads[child] = threads
        child.send(replace(job, kept=self._keep).to_json())
        return child

    def take_back(self, process: RunProcess) -> bool:
        if not self._keep or not isinstance(process, ChildProcess):
            return False
        self._idle.setdefault(self._threads[process], []).append(process)
        return True

    def wait(self, processes: Sequence[RunProcess], seconds: float) -> list[RunProcess]:
        with selectors.DefaultSelector() as selector:
            for child in processes:
                if not child.closed:
                    selector.register(child, selectors.EVENT_READ)  # type: ignore[arg-type]  # it has a fileno
            return [key.fileobj for key, _ in selector.select(seconds)]  # type: ignore[misc]


@dataclass(eq=False)
class _Worker:
    job: Job
    child: RunProcess
    outcome: Outcome | None = None
    last: dict[str, Any] = field(default_factory=dict)  # event

    def end(self) -> Outcome:
        """How the process, which is gone, has ended: explained here where it did not do so itself."""
        if self.outcome is None and (status := self._final_status()) is not None:
            self.outcome = Outcome(status)
        if self.outcome is None:
            code = self.child.exit_status or 0
            how = "was killed by" if code < 0 else "ended with"
            where = f" in step {self.last['step']}" if "step" in self.last else ""
            hint = _OUT_OF_MEMORY if code == -signal.SIGKILL else ""
            message = f"its process {how} {self.child.ending}{where}{hint}"
            self.outcome = Outcome("failed", message, "ProcessDied")
            with contextlib.suppress(OSError):
                self.job.folder.mkdir(parents=True, exist_ok=True)
                text = f"{message}\n{self.child.error_tail()}"
                (self.job.folder / "error.txt").write_text(text, encoding="utf-8")
        return self.outcome

    def _final_status(self) -> str | None:
        """complete or diverged where the run got there before its process could say so."""
        with contextlib.suppress(UsageError, OSError):
            status = read_run_json(self.job.folder).get("status")
            return status if status in FINAL else None
        return None


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    requests: StopRequests,
    on_event: Callable[[dict[str, Any]], None],
    executor: Executor,
) -> dict[str, Outcome]:
    """Run all jobs, at most `workers` at a time; run_id -> outcome. A job that fails leaves the others alone.

    After one stop request no further job starts and those under way end after their present step; after a second they
    are killed. Events are those of the workers with `run_id` and `label`, and one with phase "start" and one with the
    outcome as phase for each job. Whatever is raised here (by a callback, say), no process is left behind.
    """
    waiting = list(reversed(jobs))
    running: list[_Worker] = []
    outcomes: dict[str, Outcome] = {}
    asked = False
    try:
        while running or (waiting and not requests.count):
            while waiting and len(running) < workers and not requests.count:
                job = waiting.pop()
                running.append(_Worker(job, executor.start(job)))
                on_event(_named(job, {"phase": "start", "steps": job.run.config.steps}))
            ended = [worker for worker in running if worker.child.exit_status is not None]
            ready = executor.wait([worker.child for worker in running], _wait_seconds(running, ended))
            for worker in [worker for worker in running if worker.child in ready or worker in ended]:
                for message in worker.child.receive():
                    _note(worker, message, on_event)
                done = worker.outcome is not None and worker.outcome.status in FINAL
                kept = done and executor.take_back(worker.child)
                if kept or worker in ended:
                    running.remove(worker)
                    outcome = worker.end()
                    if not kept:
                        worker.child.close()
                    outcomes[worker.job.run.run_id] = outcome
                    on_event(_named(worker.job, {"phase": outcome.status, "error": outcome.message}))
            if requests.count and not asked:
                asked = True
                for worker in running:
                    worker.child.send("stop")
                    on_event(_named(worker.job, {"phase": "stopping", "note": "Ctrl-C again kills it"}))
            if requests.count > 1:
                break
    finally:
        for worker in running:
            worker.child.close()
    stopped = [worker.job for worker in running] + waiting
    return outcomes | {job.run.run_id: Outcome("interrupted") for job in stopped}


def _note(worker: _Worker, message: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> None:
    if "event" in message:
        worker.last = message["event"]
        on_event(_named(worker.job, message["event"]))
    elif "status" in message:
        worker.outcome = Outcome(message["status"], worker.last.get("error", ""))
    else:
        worker.outcome = Outcome("failed", message["error"], message["kind"])


def _wait_seconds(running: list[_Worker], ended: list[_Worker]) -> float:
    if ended:
        return 0.0
    return _END_SECONDS if any(worker.child.closed for worker in running) else _POLL_SECONDS


def _named(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    return event | {"run_id": job.run.run_id, "label": job.run.label}
