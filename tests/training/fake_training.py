"""Stand-ins for `loop.train`, for `run(..., train="fake_training:complete")`: they write run.json, no records."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from analysis.errors import DivergedError, UsageError
from analysis.recording.folders import write_json
from analysis.recording.schema import SCHEMA_VERSION


def complete(config: Any, folder: Path, **job: Any) -> str:
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
    if config.objective.name == "psr":
        job["report"]({"phase": "update", "step": 2, "steps": config.steps})
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return _go(config, folder, "complete", **job)


def chatty(config: Any, folder: Path, **job: Any) -> str:
    print("a library that prints")
    os.write(1, b"even below Python\n")
    return _go(config, folder, "complete", **job)


def slow(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", seconds=0.05 if job["resume"] else 60.0, **job)


def stubborn(config: Any, folder: Path, **job: Any) -> str:
    return _go(config, folder, "complete", seconds=60.0, **{**job, "should_stop": lambda: False})


def _go(config: Any, folder: Path, end: str, *, seconds: float = 0.0, run_id: str, label: str, resume: bool,
        report: Any, should_stop: Any) -> str:
    """Steps of `seconds` in all; `calls.txt` notes each call with its process, `steps.txt` each step."""
    info = {"schema_version": SCHEMA_VERSION, "run_id": run_id, "label": label, "seed": config.seed}
    write_json(folder / "run.json", info | {"status": "running"})
    with (folder / "calls.txt").open("a") as calls:
        calls.write(f"{os.getpid()} {resume} {os.environ['OMP_NUM_THREADS']} {time.time()}\n")
    steps = folder / "steps.txt"
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    status = end
    for step in range(done, config.steps):
        report({"phase": "rollout", "step": step, "steps": config.steps, "reward": 0.5, "entropy": 1.0})
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
