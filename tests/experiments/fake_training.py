"""Stand-ins for `loop.train`, named as `train="tests.experiments.fake_training:complete"`: they write run.json only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from analysis.errors import DivergedError, UsageError
from analysis.records.folders import write_json
from analysis.records.schema import SCHEMA_VERSION

ROWS = {"psr": 20, "nsr": 400}  # of tokens that `recording` writes a step
LONG_SECONDS = 600.0  # of what does not end by itself while a test waits


def complete(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", **job)


def complete_with_process(config: Any, folder: Path, **job: Any) -> str:
    (folder / "process.txt").write_text(str(os.getpid()))
    return _go(config, folder, "complete", **job)


def diverging(config: Any, folder: Path, **job: Any) -> str:
    if config.objective.name != "psr":
        return _go(config, folder, "complete", **job)
    job["report"]({"phase": "update", "step": 0, "steps": config.steps, "error": str(DivergedError("update 3"))})
    return _go(config, folder, "diverged", **job)


def failing(config: Any, folder: Path, **job: Any) -> str:
    if config.objective.name == "psr":
        raise RuntimeError("no luck\nsecond line")
    return _go(config, folder, "complete", **job)


def refusing(config: Any, folder: Path, **job: Any) -> str:
    raise UsageError("task.train_prompts: expected at most 7, got 9")


def dying(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", at_step_2=lambda: os.kill(os.getpid(), signal.SIGKILL), **job)


def faulting(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", at_step_2=lambda: os.kill(os.getpid(), signal.SIGSEGV), **job)


def leaving(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", at_step_2=lambda: os._exit(3), **job)


def mute(config: Any, folder: Path, **job: Any) -> str:
    if config.objective.name == "psr":
        os._exit(0)
    return _go(config, folder, "complete", **job)


def silent(config: Any, folder: Path, **job: Any) -> str:
    _go(config, folder, "complete", **job)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def forking(config: Any, folder: Path, **job: Any) -> str:
    def helper() -> None:
        if (pid := os.fork()) == 0:
            time.sleep(LONG_SECONDS)
            os._exit(0)
        (folder / "helper.txt").write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    return _go(config, folder, "complete", at_step_2=helper, **job)


def chatty(config: Any, folder: Path, **job: Any) -> str:
    print("a library that prints")
    os.write(1, b"even below Python\n")
    return _go(config, folder, "complete", **job)


def slow(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", seconds=0.05 if job["resume"] else LONG_SECONDS, **job)


def slow_recording(config: Any, folder: Path, **job: Any) -> str:
    """`recording` that waits after its second step until it is asked to stop."""

    def stop() -> bool:
        end = time.monotonic() + LONG_SECONDS
        while not job["should_stop"]() and time.monotonic() < end:
            time.sleep(0.01)
        return True

    return recording(config, folder, stop_after_step_1=stop, **job)


def recording(config: Any, folder: Path, stop_after_step_1: Any = None, **job: Any) -> str:
    """Rows that follow from their step and a state of 200 kB, by the real store."""
    import torch

    from analysis.records import RunWriter
    from tests.records.rows import RUN_JSON, some_rows

    run_json = RUN_JSON | {"run_id": job["run_id"], "label": job["label"], "seed": config.seed}
    writer = RunWriter(folder, run_json=run_json, resume=job["resume"])
    stored = writer.resume_state()
    for step in range(stored[0] if stored else 0, config.steps):
        job["report"]({"phase": "update", "step": step, "steps": config.steps})
        writer.append("tokens", some_rows("tokens", ROWS[config.objective.name], step))
        writer.commit(step + 1, {"weights": torch.arange(50_000.0)})
        if step == 1 and stop_after_step_1 is not None:
            job["report"]({"phase": "evaluation", "step": step, "steps": config.steps})
            stop_after_step_1()
            writer.finish("interrupted")
            return "interrupted"
    writer.finish("complete")
    return "complete"


def training(config: Any, folder: Path, **job: Any) -> str:
    """The real one; `parents.txt` notes the process that started each attempt."""
    from analysis.training.loop import train

    with (folder / "parents.txt").open("a") as parents:
        parents.write(f"{os.getppid()} {job['resume']}\n")
    return train(config, folder, **job)


def stubborn(config: Any, folder: Path, **job: Any) -> str:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG_SECONDS})"])
    (folder / "ready.txt").touch()
    return _go(
        config,
        folder,
        "complete",
        seconds=0.05 if job["resume"] else LONG_SECONDS,
        **{**job, "should_stop": lambda: False},
    )


def frozen(config: Any, folder: Path, **job: Any) -> str:
    def stop() -> bool:
        (folder / "ready.txt").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        return False

    return _go(config, folder, "complete", seconds=LONG_SECONDS, **{**job, "should_stop": stop})


def deaf(config: Any, folder: Path, **job: Any) -> str:
    def close() -> bool:
        if not (folder / "ready.txt").exists():
            for channel in _channels():
                os.close(channel)
            (folder / "ready.txt").touch()
        return False

    return _go(config, folder, "complete", seconds=LONG_SECONDS, **{**job, "should_stop": close})


def _channels() -> list[int]:
    """The pipes on which this process can speak to its parent."""
    found = []
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode) and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_WRONLY:
                found.append(number)
    assert found
    return found


def _go(
    config: Any,
    folder: Path,
    end: str,
    *,
    seconds: float = 0.0,
    at_step_2: Any = None,
    run_id: str,
    label: str,
    resume: bool,
    report: Any,
    should_stop: Any,
) -> str:
    """Steps of `seconds` in all; `calls.txt` notes each call with its process, `steps.txt` each step.

    `at_step_2` is what the run of PSR does then, after its last words.
    """
    info = {"schema_version": SCHEMA_VERSION, "run_id": run_id, "label": label, "seed": config.seed}
    write_json(folder / "run.json", info | {"status": "running"})
    with (folder / "calls.txt").open("a") as calls:
        calls.write(f"{os.getpid()} {resume} {os.environ['OMP_NUM_THREADS']} {time.time()}\n")
    steps = folder / "steps.txt"
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    status = end
    for step in range(done, config.steps):
        report({"phase": "rollout", "step": step, "steps": config.steps, "reward": 0.5, "entropy": 1.0})
        if step == 2 and at_step_2 is not None and config.objective.name == "psr":
            print("last words", file=sys.stderr, flush=True)
            at_step_2()
        wake = time.monotonic() + seconds / config.steps
        while time.monotonic() < wake and not should_stop():
            time.sleep(0.01)
        with steps.open("a") as file:
            file.write(f"{step}\n")
        if should_stop() and step + 1 < config.steps:
            status = "interrupted"
            break
    write_json(folder / "run.json", info | {"status": status})
    return status
