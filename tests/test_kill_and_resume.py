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

KILLS = int(os.environ.get("KILLS", "4"))
SETTINGS = [
    "--set",
    "steps=12",
    "--set",
    "record.chunk=2",
    "--set",
    "eval.every=4",
    "--set",
    "eval.prompts=4",
    "--set",
    "eval.final_prompts=8",
    "--set",
    "rollout.prompts=8",
]


def command(folder, *options):
    return [
        sys.executable,
        "-m",
        "analysis.trace",
        "--run",
        "tiny",
        *SETTINGS,
        "--out",
        str(folder),
        "--quiet",
        *options,
    ]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path):
    start = time.monotonic()
    subprocess.run(command(tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    duration = time.monotonic() - start
    expected = {run_id: digest(run) for run_id, run in load_trace(tmp_path / "whole").runs.items()}
    assert len(expected) == 2

    draw = random.Random(20)
    killed = 0
    folder = tmp_path / "killed"
    while killed < KILLS:
        process = subprocess.Popen(
            command(folder, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            process.wait(timeout=draw.uniform(0.2, duration))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the parent and its workers at one moment
            process.wait()
            killed += 1
        else:  # it got to its end first: check that, and start another
            assert process.returncode == 0, process.stderr.read().decode()
            assert {run_id: digest(run) for run_id, run in load_trace(folder).runs.items()} == expected
            folder = tmp_path / f"killed-{killed}"
    subprocess.run(command(folder, "--resume"), check=True, capture_output=True)
    assert {run_id: digest(run) for run_id, run in load_trace(folder).runs.items()} == expected
