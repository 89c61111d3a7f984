"""The executor of a Ray cluster: each run is an actor that takes its threads as CPUs, and one GPU where it wants CUDA.

What differs from the local pool is what can be lost: a machine, or a Ray worker. A run whose Ray worker is lost is
resumed from its last commit, by another worker, at most twice. A training process that dies while its Ray worker lives
(out of memory, say) ends as it does locally: the run is reported as failed, and `--resume` continues it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..recipes.fields import RunConfig
from ..recipes.plan import runs_at_a_time
from .pool import Job, RunProcess
from .ray_runs import Ending, RayRun, marker

__all__ = ["RayExecutor", "ray_cluster"]

_RESTARTS = 2  # of a run whose Ray worker was lost
_CLOSE_SECONDS = 5.0  # until a worker that does not answer is killed with what it holds


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[RayExecutor]:
    """Connect to a cluster, and disconnect at the end; one that the caller has connected to is used and left as it is.

    Args:
        address: Of the cluster, by default that in `RAY_ADDRESS`; "local", or neither: a Ray of this machine alone,
            which is started here and sends no usage statistics.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"executor: expected an installed Ray for \"ray\", got none ({error}); pip install 'rlvr-dynamics[ray]'"
        ) from error
    if ray.is_initialized():
        yield RayExecutor()
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        with _signals_kept(), _no_statistics(local=address == "local"):
            options = {"include_dashboard": False} if address == "local" else {}
            ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
    except Exception as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"ray_address: expected the address of a running Ray cluster, or a machine that can start one, got "
            f"{address!r} ({first}); start it with: ray start --head"
        ) from error
    try:
        yield RayExecutor()
    finally:
        with _signals_kept():
            ray.shutdown()


class RayExecutor:
    """The processes of runs, on the machines of the cluster to which Ray is connected."""

    def __init__(self) -> None:
        import ray

        self._ray = ray

    def at_a_time(self, configs: Sequence[RunConfig], workers: int | None) -> int:
        """`workers`, by default as many runs as the machines of the cluster have cores for.

        Raises:
            UsageError: No machine of the cluster has what a run needs.
        """
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for config in configs:
            for name, amount in _resources(config).items():
                most = max((machine.get(name, 0) for machine in machines), default=0)
                if amount > most:
                    field = "threads" if name == "CPU" else "device"
                    raise UsageError(
                        f"{field}: expected a machine of the Ray cluster with {amount} {name}, got at most {most:g}; "
                        f"set {field} to what a machine has, or add one that has more"
                    )
        if workers is not None:
            return runs_at_a_time(configs, workers)
        threads = max((config.threads for config in configs), default=1)
        return max(1, sum(int(machine.get("CPU", 0)) // threads for machine in machines))

    def start(self, job: Job) -> RayProcess:
        return RayProcess(self._ray, job)

    def take_back(self, process: RunProcess) -> bool:
        return False

    def wait(self, processes: Sequence[RunProcess], seconds: float) -> list[RunProcess]:
        awaited = {child.reply: child for child in processes if isinstance(child, RayProcess) and not child.closed}
        if not awaited:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=seconds)
        return [awaited[reply] for reply in ready]


class RayProcess:
    """The process of one run as the driver sees it (`pool.RunProcess`).

    Attributes:
        reply: What is awaited of the actor: its next words.
    """

    def __init__(self, ray: Any, job: Job) -> None:
        self._ray, self._job = ray, replace(job, folder=job.folder.absolute())
        self._token = uuid.uuid4().hex
        self._losses = 0
        self._stopping = False
        self._ended: Ending | None = None
        job.folder.mkdir(parents=True, exist_ok=True)
        marker(job.folder, self._token).touch()
        self._begin()

    def _begin(self) -> None:
        needs = _resources(self._job.run.config)
        actor = self._ray.remote(RayRun).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=0, max_concurrency=4
        )
        self._begun = False
        self._actor = actor.remote(self._job, self._token, os.getcwd(), sys.path)
        self.reply = self._actor.begin.remote()

    @property
    def closed(self) -> bool:
        return self._ended is not None

    @property
    def exit_status(self) -> int | None:
        return None if self._ended is None else self._ended.exit_status

    @property
    def ending(self) -> str:
        assert self._ended is not None
        return self._ended.ending

    def error_tail(self) -> str:
        return "" if self._ended is None else self._ended.error_tail

    def receive(self) -> list[dict[str, Any]]:
        if self.closed or not self._ray.wait([self.reply], timeout=0)[0]:
            return []
        try:
            said = self._ray.get(self.reply)
        except self._ray.exceptions.RayActorError as error:
            return self._lost(error)
        messages: list[dict[str, Any]] = []
        if self._begun:
            messages, self._ended = said
        self._begun = True
        if not self.closed:
            self.reply = self._actor.receive.remote()
        return messages

    def _lost(self, error: Exception) -> list[dict[str, Any]]:
        """Begin again from the last commit, or end where that was tried often enough."""
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        self._losses += 1
        if self._stopping:
            self._ended = Ending(0, "exit status 0", "")
            return [{"status": "interrupted"}]
        if self._losses > _RESTARTS:
            self._ended = Ending(1, f"its Ray worker, which was lost {self._losses} times ({first})", str(error))
            return []
        self._begin()
        return [{"event": {"phase": "lost", "note": "its Ray worker is gone; resuming from the last commit"}}]

    def send(self, value: Any) -> None:
        self._stopping |= value == "stop"
        if self._begun:
            self._actor.send.remote(value)
        else:  # it waits for a free machine, and would begin only to stop
            self._ray.kill(self._actor)

    def close(self) -> None:
        if not self.closed and self._begun:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait([self._actor.close.remote()], timeout=_CLOSE_SECONDS)
        self._ray.kill(self._actor)
        with contextlib.suppress(OSError):
            marker(self._job.folder, self._token).unlink(missing_ok=True)


def _resources(config: RunConfig) -> dict[str, int]:
    """What Ray reserves for a run."""
    if config.device.startswith("cuda"):
        if config.device not in ("cuda", "cuda:0"):
            raise UsageError(
                f'device: expected cuda, cpu or auto with the executor "ray", got {config.device!r}; Ray gives each '
                "run a GPU of its own, which the run sees as the only one"
            )
        return {"CPU": config.threads, "GPU": 1}
    return {"CPU": config.threads}


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of the signals that Ray takes for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _no_statistics(*, local: bool) -> Iterator[None]:
    """A Ray that is started here sends nothing to its makers, unless the environment says that it may."""
    name = "RAY_USAGE_STATS_ENABLED"
    if not local or name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]
