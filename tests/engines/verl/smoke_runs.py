"""Smoke runs of the tests: the command as users call it, in a process that can be watched and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SECONDS = 600.0
"""Longest time of a run; a limit against hanging, not a measure."""

PLATFORM_VARIABLES = ("VERL_PLATFORM", "VERL_ENGINE_DEVICE", "VERL_USE_EXTERNAL_MODULES")


class SmokeRun:
    """`python -m analysis.engines.verl --smoke`, started at once.

    Args:
        out: The folder of the run.
        arguments: Further ones.
    """

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        variables = {name: value for name, value in os.environ.items() if name not in PLATFORM_VARIABLES}
        command = [sys.executable, "-m", "analysis.engines.verl", "--smoke", "--out", str(out), *arguments]
        self.process = subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        try:
            output, errors = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGINT)
            output, errors = self.process.communicate()
        return self.process.returncode, output, errors

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that the run does."""
        until = time.monotonic() + SECONDS
        while not reached():
            assert self.process.poll() is None, self.finish()
            assert time.monotonic() < until
            time.sleep(0.1)

    def trainer(self) -> int:
        """The process of verl."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (child,) = (int(number) for number in children if os.getsid(int(number)) == int(number))
        return child


def ray_folder(trainer: int) -> Path:
    """Ray's temporary folder, from the command of verl."""
    words = Path(f"/proc/{trainer}/cmdline").read_text().split("\0")
    (folder,) = (word.partition("=")[2] for word in words if "ray_init._temp_dir=" in word)
    return Path(folder)


def processes_of(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def steps_logged(out: Path, attempt: int = 1) -> list[int]:
    """The steps whose metrics verl has logged."""
    path = out / f"metrics-{attempt}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["step"] for line in lines]


def checkpoint(out: Path) -> int:
    """The step of verl's last checkpoint, 0 where there is none."""
    path = out / "checkpoints" / "latest_checkpointed_iteration.txt"
    return int(path.read_text() or 0) if path.is_file() else 0


def samples(out: Path, temperature: float = 1.0) -> Counter[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """What the rollout servers drew at a temperature: (step, prompt, response), as often as they drew it."""
    rows = [json.loads(line) for path in (out / "samples").glob("*.jsonl") for line in path.read_text().splitlines()]
    return Counter(
        (row["step"], tuple(row["prompt_ids"]), tuple(row["response_ids"]))
        for row in rows
        if row["temperature"] == temperature
    )
