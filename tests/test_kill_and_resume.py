"""kill -9 at random moments, each followed by `--resume`, gives the records of an uninterrupted run.

`KILLS=20 pytest tests/test_kill_and_resume.py` tries more moments than the four of the default suite.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from analysis.recording import digest, load_trace

KILLS = int(os.environ.get("KILLS", "3"))
SETTINGS = {"steps": 12, "record.chunk": 2, "eval.every": 4, "eval.prompts": 4, "eval.final_prompts": 8,
            "rollout.prompts": 8, "grid.seed": [0, 1], "grid.method": "unset", "objective.name": "nsr"}  # fmt: skip


def command(folder, *options):
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return [
        sys.executable,
        "-m",
        "analysis.trace",
        "--run",
        "tiny",
        "--out",
        str(folder),
        "--quiet",
        *settings,
        *options,
    ]


def digests(folder):
    return {run_id: digest(run) for run_id, run in load_trace(folder).runs.items()}


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path):
    start = time.monotonic()
    subprocess.run(command(tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    duration = time.monotonic() - start
    expected = digests(tmp_path / "whole")
    assert len(expected) == 2

    draw = random.Random(20)
    folder = tmp_path / "killed"
    kills = 0
    while kills < KILLS:
        # Two workers take half the time of one; later moments would mostly find the tables being printed.
        moment = draw.uniform(0.1, 0.6 * duration)
        process = subprocess.Popen(command(folder, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   start_new_session=True)  # fmt: skip
        try:
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the parent and its workers at one moment
            process.communicate()
            kills += 1
        else:  # it came to its end first: check that, and start another
            assert process.returncode == 0, errors.decode()
            assert digests(folder) == expected
            folder = tmp_path / f"killed-{kills}"
    subprocess.run(command(folder, "--resume"), check=True, capture_output=True)
    assert digests(folder) == expected
