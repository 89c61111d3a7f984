"""Training a list of runs, each in a folder of its own: the base models first, then a pool of worker processes.

`experiment.run` trains the runs of a recipe with it. Anything else that has a list of runs calls `train_runs` itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toy_models.bases.cache import ensure_base
from toy_models.bases.recipes import BASES

from ..common.stop_requests import StopRequests
from ..errors import UsageError
from ..recipes.recipe import PlannedRun
from ..records.folders import FINAL, RUN_FILE, read_run_json
from ..records.shared_storage import ERROR_FILE, SharedFolder, is_url, pull_run
from .downloads import download_models, pinned_run
from .pool import Executor, Job, LocalExecutor, Outcome, run_jobs
from .progress import RunProgress

__all__ = ["EXECUTORS", "TRAIN", "Callback", "run_status", "train_runs"]

Callback = Callable[[dict[str, Any]], None]

EXECUTORS = ("local", "ray")
TRAIN = f"{__package__.rpartition('.')[0]}.training.loop:train"


def train_runs(
    planned: Sequence[PlannedRun],
    folders: Mapping[str, str | Path],
    *,
    executor: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    train: str = TRAIN,
    keep_processes: bool = False,
) -> dict[str, Outcome]:
    """Train and record each run in its folder, several at a time, each in a process of its own.

    What a folder holds decides what happens to its run, as with `experiment.run`: an unfinished run is resumed after
    its last commit, and one that has ended is left as it is. Two callers at once on the same folders are not meant:
    the second waits a minute for each run that the first is writing, and then reports it as failed.

    The first Ctrl-C or SIGTERM ends each run after its current step, committed; no further run starts. The outcomes
    then say `interrupted`, and another call continues. A second one kills the runs, which lose what came after their
    last commit.

    Args:
        planned: The runs; their run_ids differ.
        folders: run_id -> the folder of that run; it is made, with its parents. A URL of shared storage is written
            through a local copy (`analysis.records.shared_storage`).
        executor: "local": processes of this machine. "ray": processes on the machines of a Ray cluster, which see the
            folders under the same paths, or write to URLs; a run whose Ray worker is lost is resumed by another, at
            most twice.
        workers: Runs that are trained at a time; by default cores / threads of a run. Records do not depend on it.
        ray_address: The cluster of the executor "ray"; by default `RAY_ADDRESS`, or else a Ray that is started on this
            machine.
        callbacks: Each receives every progress event: a dict with `run_id` (None while a base is pretrained), `label`
            and `phase`.
        quiet: Show no progress on stderr.
        train: The function, "module:name", that trains one run in its process; see `analysis.training.loop.train`.
        keep_processes: Whether a local process trains one run after another, which is faster where there are many
            short ones: the libraries are loaded once. Records do not depend on it.

    Returns:
        run_id -> how the run ended: its `status` is complete, diverged, interrupted or failed. A failed run has a
        `message` and leaves the others alone; its traceback lies in its folder as `error.txt`.

    Raises:
        UsageError: A run_id stands twice or has no folder, `workers` is not a positive integer, or `executor` is
            unknown.
        KeyboardInterrupt: Ctrl-C or SIGTERM while a built-in base was pretrained.

    Example:
        >>> runs = Recipe.load("tiny").expand()  # doctest: +SKIP
        >>> outcomes = train_runs(runs, {run.run_id: Path("mine") / run.run_id for run in runs})  # doctest: +SKIP
        >>> outcomes["psr-seed0"].status  # doctest: +SKIP
        'complete'
    """
    if executor not in EXECUTORS:
        raise UsageError(f"executor: expected {' or '.join(EXECUTORS)}, got {executor!r}; name one of them")
    if ray_address is not None and executor != "ray":
        raise UsageError(f'ray_address: expected executor = "ray" with it, got {executor!r}; leave the address out')
    ids = [run.run_id for run in planned]
    if twice := {run_id for run_id in ids if ids.count(run_id) > 1}:
        raise UsageError(
            f"planned: expected runs of different run_ids, got {', '.join(sorted(twice))} twice; rename one"
        )
    if missing := [run_id for run_id in ids if run_id not in folders]:
        raise UsageError(f"folders: expected a folder for each run, got none for {', '.join(missing)}; add them")
    shared = {run_id: SharedFolder(str(folders[run_id])) for run_id in ids if is_url(folders[run_id])}
    there = {run_id: shared[run_id].copy("writing") if run_id in shared else Path(folders[run_id]) for run_id in ids}
    for run_id, storage in shared.items():
        pull_run(storage, there[run_id])
    statuses = {run_id: run_status(folder) for run_id, folder in there.items()}
    todo = [run for run in planned if statuses[run.run_id] not in FINAL]
    jobs = [
        Job(
            pinned_run(run),
            folder,
            (folder / RUN_FILE).exists(),
            train,
            shared[run.run_id].url if run.run_id in shared else None,
        )
        for run, folder in ((run, there[run.run_id]) for run in todo)
    ]
    if not todo:
        return {run_id: Outcome(status) for run_id, status in statuses.items()}
    with (
        _processes(executor, ray_address, keep=keep_processes) as processes,
        RunProgress(planned, quiet=quiet) as progress,
        StopRequests() as requests,
    ):
        at_a_time = processes.at_a_time([run.config for run in planned], workers)

        def on_event(event: dict[str, Any]) -> None:
            progress(event)
            for callback in callbacks:
                callback(event)

        if executor == "local":  # elsewhere each machine makes those that it needs
            _make_bases(todo, on_event)
        requests.interrupt = False
        outcomes = run_jobs(jobs, workers=at_a_time, requests=requests, on_event=on_event, executor=processes)
    for run in todo:
        if run.run_id in shared:  # another machine may have written it
            if (error := there[run.run_id] / ERROR_FILE).exists():
                shared[run.run_id].put(error, ERROR_FILE)
            pull_run(shared[run.run_id], there[run.run_id])
    return {run_id: outcomes.get(run_id) or Outcome(statuses[run_id]) for run_id in ids}


def _processes(executor: str, ray_address: str | None, *, keep: bool) -> contextlib.AbstractContextManager[Executor]:
    if executor == "local":
        return LocalExecutor(keep=keep)
    from .ray_executor import ray_cluster

    return ray_cluster(ray_address)


def run_status(folder: Path) -> str:
    """The status in the run.json of a folder, "waiting" where there is none yet."""
    return str(read_run_json(folder)["status"]) if (folder / RUN_FILE).exists() else "waiting"


def _make_bases(todo: Sequence[PlannedRun], on_event: Callback) -> None:
    """Pretrain the built-in bases and download the models that are not cached yet, before the runs need them."""
    for base, seed in dict.fromkeys((run.config.policy.base, run.config.policy.seed) for run in todo):
        if base in BASES:
            event = {"run_id": None, "label": f"base {base}", "phase": "pretrain"}

            def progress(step: int, steps: int, loss: float, event: dict[str, Any] = event) -> None:
                on_event(event | {"step": step, "steps": steps, "loss": loss})

            ensure_base(base, seed, progress=progress)
    for run in todo:
        download_models(run.config, lambda event: on_event({"run_id": None} | event))
