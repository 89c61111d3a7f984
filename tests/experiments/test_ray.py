"""Runs on a local Ray of two CPUs: the same records as the local pool, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError, load_trace
from analysis.experiments import Outcome, train_runs
from analysis.experiments.pool import Job
from analysis.experiments.ray_runs import RayRun, marker
from analysis.recipes import PlannedRun, Recipe
from analysis.records import digest
from analysis.records.folders import read_run_json
from tests.experiments.fake_experiments import ROOT, WAIT_SECONDS, alive, wait_for
from tests.local_ray import local_ray


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    with local_ray() as address:
        yield address


def folders(runs: list[PlannedRun], name: str) -> dict[str, Path]:
    return {run.run_id: Path(name) / run.run_id for run in runs}


def train(runs: list[PlannedRun], name: str, function: str, **options: Any) -> dict[str, Outcome]:
    there = folders(runs, name)
    return train_runs(runs, there, quiet=True, train=f"tests.experiments.fake_training:{function}", **options)


@pytest.mark.slow
def test_the_records_are_those_of_the_local_pool_though_a_worker_was_killed(
    ray_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # long enough not to end before it is killed
    runs = list(Recipe.load("tiny").set(steps=20, **{"record.chunk": 1, "eval.every": 20}).expand())
    events: list[dict[str, Any]] = []

    def kill(event: dict[str, Any]) -> None:
        events.append(event)
        parents = Path("ray") / "psr-seed0" / "parents.txt"
        if event["run_id"] == "psr-seed0" and event.get("step", 0) >= 2 and parents.read_text().count("\n") == 1:
            pid = int(parents.read_text().split()[0])
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    outcomes = train(runs, "ray", "training", executor="ray", workers=2, callbacks=[kill])
    assert set(outcomes.values()) == {Outcome("complete")}
    assert [event["run_id"] for event in events if event["phase"] == "lost"] == ["psr-seed0"]
    attempts = (Path("ray") / "psr-seed0" / "parents.txt").read_text().split()
    assert attempts[1::2] == ["False", "True"]
    train(runs, "local", "training")
    for run in runs:
        local, ray = (load_trace(Path(name) / run.run_id) for name in ("local", "ray"))
        assert digest(local) == digest(ray)
    assert not list(Path("ray").glob("*/.shared-*"))
    assert {event["label"] for event in events} == {"PSR", "NSR"}


@pytest.mark.slow
def test_a_training_process_that_dies_is_told_as_locally(ray_address: str, fake_recipe: Recipe) -> None:
    runs = list(fake_recipe.expand())
    outcomes = train(runs, "x", "dying", executor="ray")
    assert outcomes["nsr-seed0"] == Outcome("complete")
    failed = outcomes["psr-seed0"]
    assert (failed.status, failed.kind) == ("failed", "ProcessDied")
    assert failed.message.startswith("its process was killed by SIGKILL in step 2: perhaps out of memory")
    assert "last words" in (Path("x") / "psr-seed0" / "error.txt").read_text()
    assert train(runs, "x", "complete")["psr-seed0"] == Outcome("complete")


@pytest.mark.slow
def test_runs_at_a_url(ray_address: str, fake_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray's machine writes through copies in its own cache folder, not in that of the driver."""
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "driver"))
    (run, _) = fake_recipe.expand()
    url = f"file://{tmp_path}/storage/psr"
    name = "tests.experiments.fake_training:recording"
    outcomes = train_runs([run], {run.run_id: url}, quiet=True, train=name, executor="ray")
    assert outcomes == {"psr-seed0": Outcome("complete")}
    assert train_runs([run], {run.run_id: "plain"}, quiet=True, train=name) == outcomes
    assert digest(load_trace(url)) == digest(load_trace("plain"))


@pytest.mark.slow
def test_ctrl_c_ends_each_run_after_its_step(ray_address: str, fake_recipe: Recipe) -> None:
    """A third run that waits for a free CPU does not begin; the local pool continues all."""
    runs = list(fake_recipe.expand())
    runs.append(replace(runs[0], run_id="third"))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.experiments.test_ray import *\n"
        f"runs = list(Recipe.from_dict({fake_recipe.to_dict()!r}).expand())\n"
        "runs.append(replace(runs[0], run_id='third'))\n"
        f"outcomes = train(runs, 'x', 'slow', executor='ray', workers=3, ray_address={ray_address!r})\n"
        "print(*(outcome.status for outcome in outcomes.values()))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    begun = list(folders(runs, "x").values())[:2]
    wait_for(lambda: all((folder / "calls.txt").exists() for folder in begun) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert output == "interrupted interrupted interrupted\n", errors
    assert [read_run_json(folder)["status"] for folder in begun] == ["interrupted"] * 2
    assert [(folder / "steps.txt").read_text() for folder in begun] == ["0\n"] * 2
    assert not (Path("x") / "third" / "run.json").exists()
    assert set(train(runs, "x", "complete").values()) == {Outcome("complete")}


@pytest.mark.slow
def test_what_no_machine_of_the_cluster_has_is_refused(ray_address: str, fake_recipe: Recipe) -> None:
    for change, message in (
        ({"threads": 10_000}, "threads: expected a machine of the Ray cluster with 10000 CPU"),
        ({"device": "cuda:1"}, "device: expected cuda, cpu or auto with the executor"),
        ({"device": "cuda"}, "device: expected a machine of the Ray cluster with 1 GPU, got at most 0"),
    ):
        with pytest.raises(UsageError, match=message):
            train(list(fake_recipe.set(**change).expand()), "x", "complete", executor="ray")


def test_a_folder_that_the_machine_does_not_see_is_refused(fake_recipe: Recipe, tmp_path: Path) -> None:
    """Without Ray: its worker is a plain object."""
    (run, _) = fake_recipe.expand()
    folder = tmp_path / "x"
    job = Job(run, folder, False, "tests.experiments.fake_training:complete")
    (message,), ending = RayRun(job, "token", str(tmp_path), sys.path).receive()
    assert message["kind"] == "UsageError"
    assert message["error"].startswith(
        f"out: expected a folder that every machine of the Ray cluster sees, got {folder}"
    )
    assert ending is not None
    folder.mkdir()
    marker(folder, "token").touch()
    seen = RayRun(job, "token", str(tmp_path), sys.path)
    messages: list[dict[str, Any]] = []
    while (said := seen.receive())[1] is None:
        messages += said[0]
    assert [*messages, *said[0]][-1] == {"status": "complete"}
    seen.close()


def test_ray_that_is_missing_is_named(fake_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"executor: expected an installed Ray .*; pip install 'rlvr-dynamics\[ray\]'"):
        train(list(fake_recipe.expand()), "x", "complete", executor="ray")


def test_an_address_without_ray_is_refused(fake_recipe: Recipe) -> None:
    with pytest.raises(UsageError, match='ray_address: expected executor = "ray" with it'):
        train(list(fake_recipe.expand()), "x", "complete", ray_address="auto")
