"""Runs in parallel, each in its own process: starting, listening, stopping, and noticing the ones that die."""

from __future__ import annotations

import contextlib
import selectors
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toy_models.child_process import ChildProcess

from ..common.stop_requests import StopRequests
from ..errors import UsageError
from ..recipes.config import config_to_dict
from ..recipes.recipe import PlannedRun
from ..records.folders import read_run_json

__all__ = ["Job", "Outcome", "run_jobs"]

_POLL_SECONDS = 0.2
_END_SECONDS = 0.005  # between a process's closing of its output and its end
_OUT_OF_MEMORY = ": perhaps out of memory; --workers 1 needs less, fewer rollout.prompts or smaller minibatches too"
FINAL = ("complete", "diverged")  # statuses of a run that is done


@dataclass(frozen=True)
class Job:
    """A run, where it is written, and the function that trains it ("module:name", called as `worker` says)."""

    run: PlannedRun
    folder: Path
    resume: bool
    train: str

    def to_json(self) -> dict[str, Any]:
        """What the worker is sent."""
        return {
            "config": config_to_dict(self.run.config),
            "run_id": self.run.run_id,
            "label": self.run.label,
            "folder": str(self.folder),
            "resume": self.resume,
            "train": self.train,
        }


@dataclass(frozen=True)
class Outcome:
    """How a run ended: complete, diverged, interrupted or failed; `kind` is the class of the error that ended it."""

    status: str
    message: str = ""
    kind: str = ""


@dataclass(eq=False)
class _Worker:
    job: Job
    child: ChildProcess
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
    jobs: Sequence[Job], *, workers: int, requests: StopRequests, on_event: Callable[[dict[str, Any]], None]
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
    with selectors.DefaultSelector() as selector:
        try:
            while running or (waiting and not requests.count):
                while waiting and len(running) < workers and not requests.count:
                    worker = _start(waiting.pop())
                    running.append(worker)
                    selector.register(worker.child, selectors.EVENT_READ, worker)
                    on_event(_named(worker.job, {"phase": "start", "steps": worker.job.run.config.steps}))
                ended = [worker for worker in running if worker.child.exit_status is not None]
                heard = [key.data for key, _ in selector.select(_wait_seconds(running, ended))]
                for worker in dict.fromkeys(heard + ended):
                    for message in worker.child.receive():
                        _note(worker, message, on_event)
                    if (worker.child.closed or worker in ended) and worker.child in selector.get_map():
                        selector.unregister(worker.child)
                    if worker in ended:
                        running.remove(worker)
                        outcome = worker.end()
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


def _start(job: Job) -> _Worker:
    threads = str(job.run.config.threads)
    with contextlib.suppress(OSError):
        (job.folder / "error.txt").unlink(missing_ok=True)
    child = ChildProcess(
        f"{__package__}.worker",
        environment={f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")},
    )
    child.send(job.to_json())
    return _Worker(job, child)


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
