"""Processes of runs that end as they should not, or do not end: told, their siblings unharmed, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from analysis.experiments import RunFailedError
from analysis.experiments.experiment import default_folder, resume_command
from analysis.recipes import Recipe
from analysis.records.folders import read_run_json
from tests.experiments.fake_experiments import FAILED, WAIT_SECONDS, alive, calls, go, script, wait_for
from toy_models import child_process

RUNS = ("psr-seed0", "nsr-seed0")


@pytest.mark.parametrize(
    ("train", "message", "words"),
    [
        ("dying", r"its process was killed by SIGKILL in step 2: perhaps out of memory; --workers 1 .*", "last words"),
        ("faulting", r"its process was killed by SIGSEGV in step 2", "Fatal Python error: Segmentation fault"),
        ("leaving", r"its process ended with exit status 3 in step 2", "last words"),
        ("mute", r"its process ended with exit status 0", ""),
    ],
)
def test_a_worker_that_dies(fake_recipe: Recipe, train: str, message: str, words: str) -> None:
    with pytest.raises(RunFailedError, match=FAILED.format(message)) as caught:
        go(fake_recipe, train)
    folder = caught.value.folder
    assert words in (folder / "psr-seed0" / "error.txt").read_text()
    assert read_run_json(folder / "nsr-seed0")["status"] == "complete"
    assert go(fake_recipe, resume=True).status == "complete"
    assert [len(calls(folder, run_id)) for run_id in RUNS] == [1 if train == "mute" else 2, 1]


def test_workers_that_die_before_their_first_word(fake_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(child_process, "_START", "import os, sys; sys.stderr.write('no such library'); os._exit(7)")
        both = "".join(rf"{run_id} failed: its process ended with exit status 7 \(more in .*\)\n" for run_id in RUNS)
        with pytest.raises(RunFailedError, match=f"^{both}fix the cause") as caught:
            go(fake_recipe)
    for run_id in RUNS:
        assert "no such library" in (caught.value.folder / run_id / "error.txt").read_text()
    assert go(fake_recipe, resume=True).status == "complete"


def test_a_worker_that_dies_with_its_run_complete(fake_recipe: Recipe) -> None:
    """After its last word in run.json, before it could report it."""
    events: list[dict[str, Any]] = []
    assert go(fake_recipe, "silent", callbacks=[events.append]).status == "complete"
    assert {event["run_id"] for event in events if event["phase"] == "complete"} == {*RUNS}


def test_what_a_dead_worker_had_started_goes_too(fake_recipe: Recipe) -> None:
    """A helper process that holds the channel open neither keeps the parent waiting nor is left behind."""
    with pytest.raises(RunFailedError, match="killed by SIGKILL"):
        go(fake_recipe, "forking")
    pid = int((default_folder(fake_recipe) / "psr-seed0" / "helper.txt").read_text())
    wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("train", ["stubborn", "frozen", "deaf"])
def test_a_second_ctrl_c_gives_the_prompt_back(fake_recipe: Recipe, train: str) -> None:
    """Runs that do not end after their step: a long step, a process that is stopped, one that closed its channel."""
    process = start(fake_recipe, train)
    if train == "frozen":
        wait_for(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in workers(fake_recipe)))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    notes = 0
    while notes < len(RUNS):
        line = process.stderr.readline()
        assert line, "it ended at the first Ctrl-C"
        notes += "Ctrl-C again kills it" in line
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert "Ctrl-C again kills it" not in errors
    assert resume_command(default_folder(fake_recipe)) in errors
    assert not any(map(alive, workers(fake_recipe)))


def test_runs_die_with_their_parent(fake_recipe: Recipe) -> None:
    process = start(fake_recipe, "stubborn")
    pids = workers(fake_recipe)
    helpers = [child.pid for pid in pids for child in psutil.Process(pid).children()]
    assert len(helpers) == 2
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    wait_for(lambda: not any(map(alive, pids + helpers)))
    assert go(fake_recipe, resume=True).status == "complete"
    assert not list(default_folder(fake_recipe).glob("*/error.txt"))


def start(recipe: Recipe, train: str) -> subprocess.Popen[str]:
    """A script that runs the recipe, as soon as both of its runs have begun."""
    code = script(recipe, train, workers=2).replace("quiet=True", "quiet=False")
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = default_folder(recipe)
    files = ("ready.txt", "calls.txt")
    wait_for(lambda: all((folder / run_id / file).exists() for run_id in RUNS for file in files))
    return process


def workers(recipe: Recipe) -> list[int]:
    return [int(calls(default_folder(recipe), run_id)[0][0]) for run_id in RUNS]
