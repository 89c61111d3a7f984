from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.experiments import Outcome, train_runs
from analysis.recipes import Recipe
from analysis.records.folders import read_run_json
from tests.experiments.fake_experiments import ROOT, WAIT_SECONDS, wait_for


def train(recipe: Recipe, name: str, **options: Any) -> dict[str, Outcome]:
    return train_runs(recipe.expand(), folders(recipe), train=f"tests.experiments.fake_training:{name}", **options)


def folders(recipe: Recipe) -> dict[str, Path]:
    """Folders that do not lie beside each other."""
    return {run.run_id: Path(run.label) / "deep" / "er" for run in recipe.expand()}


def calls(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "calls.txt").read_text().splitlines()]


def test_each_run_in_its_folder_and_none_twice(fake_recipe: Recipe) -> None:
    events: list[dict[str, Any]] = []
    outcomes = train(fake_recipe, "complete", callbacks=[events.append], quiet=True)
    assert outcomes == {"psr-seed0": Outcome("complete"), "nsr-seed0": Outcome("complete")}
    assert {event["run_id"] for event in events if event["phase"] == "complete"} == {*outcomes}
    assert train(fake_recipe, "failing", quiet=True) == outcomes
    assert [len(calls(folder)) for folder in folders(fake_recipe).values()] == [1, 1]


def test_a_run_that_fails_is_told_and_resumed(fake_recipe: Recipe) -> None:
    outcomes = train(fake_recipe, "failing", quiet=True)
    assert outcomes == {
        "psr-seed0": Outcome("failed", "no luck\nsecond line", "RuntimeError"),
        "nsr-seed0": Outcome("complete"),
    }
    error = folders(fake_recipe)["psr-seed0"] / "error.txt"
    assert "in failing" in error.read_text()
    assert train(fake_recipe, "complete", quiet=True)["psr-seed0"] == Outcome("complete")
    assert not error.exists()


def test_a_stop_is_an_outcome_and_the_next_call_goes_on(fake_recipe: Recipe) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.experiments.test_many_runs import *\n"
        f"outcomes = train(Recipe.from_dict({fake_recipe.to_dict()!r}), 'slow', workers=2)\n"
        "print(*(outcome.status for outcome in outcomes.values()))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    there = folders(fake_recipe).values()
    wait_for(lambda: all((folder / "calls.txt").exists() for folder in there) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (output, process.returncode) == ("interrupted interrupted\n", 0)
    assert errors.count("Ctrl-C again kills it") == 2
    assert [read_run_json(folder)["status"] for folder in there] == ["interrupted"] * 2
    assert {outcome.status for outcome in train(fake_recipe, "slow", quiet=True).values()} == {"complete"}
    assert [[call[1] for call in calls(folder)] for folder in there] == [["False", "True"]] * 2


def test_no_runs(fake_recipe: Recipe) -> None:
    assert train_runs([], {}) == {}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda runs, _: runs.append(runs[0]), {}, "planned: expected runs of different run_ids, got psr-seed0 twice"),
        (lambda _, folders: folders.pop("nsr-seed0"), {}, "folders: expected a folder for each run, got none for nsr-"),
        (lambda *_: None, {"workers": 0}, "workers: expected an integer ≥ 1, got 0"),
        (lambda *_: None, {"executor": "slurm"}, "executor: expected .*, got 'slurm'"),
    ],
)
def test_refused(fake_recipe: Recipe, change: Callable[..., Any], options: Any, message: str) -> None:
    runs, there = list(fake_recipe.expand()), folders(fake_recipe)
    change(runs, there)
    with pytest.raises(UsageError, match=message):
        train_runs(runs, there, quiet=True, **options)
    assert not any(folder.exists() for folder in there.values())


@pytest.mark.parametrize("keep", [False, True])
def test_a_process_is_kept_for_the_next_run(fake_recipe: Recipe, keep: bool) -> None:
    """On one worker, a process for each run, or one for all."""
    recipe = fake_recipe.set(**{"grid.seed": [0, 1, 2]})
    runs = recipe.expand()
    where = {run.run_id: Path(run.run_id) for run in runs}
    outcomes = train_runs(
        runs,
        where,
        train="tests.experiments.fake_training:complete_with_process",
        workers=1,
        quiet=True,
        keep_processes=keep,
    )
    assert {outcome.status for outcome in outcomes.values()} == {"complete"}
    used = {(folder / "process.txt").read_text() for folder in where.values()}
    assert len(used) == (1 if keep else len(runs))


def test_a_failure_ends_a_kept_process_and_no_other_run(fake_recipe: Recipe) -> None:
    outcomes = train(fake_recipe, "failing", workers=1, quiet=True, keep_processes=True)
    assert {outcome.status for outcome in outcomes.values()} == {"failed", "complete"}


@pytest.mark.slow  # trains two runs twice
def test_records_do_not_depend_on_kept_processes(tmp_path: Path) -> None:
    from analysis.records import Run, digest

    runs = Recipe.load("tiny").set(steps=2).expand()
    found = []
    for keep in (False, True):
        where = {run.run_id: tmp_path / str(keep) / run.run_id for run in runs}
        train_runs(runs, where, workers=1, quiet=True, keep_processes=keep)
        found.append([digest(Run(folder)) for folder in where.values()])
    assert found[0] == found[1]
