"""Experiments at a URL: those of `file://`, which several processes see, from machines that share nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import InterruptedRunError, UsageError, load_trace
from analysis.experiments import RunFailedError
from analysis.experiments.experiment import url_state
from analysis.recipes import Recipe
from analysis.records import Experiment, digest
from analysis.report.__main__ import main as report
from analysis.trace import main as trace
from tests.experiments.fake_experiments import WAIT_SECONDS, go, script, wait_for
from toy_models.bases.cache import cache_home


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Become a machine of that name, with caches of its own; what is there of bases is there on each."""
    bases = cache_home() / "bases"

    def become(name: str) -> None:
        if bases.is_dir() and not (tmp_path / name).exists():
            (tmp_path / name).mkdir()
            (tmp_path / name / "bases").symlink_to(bases)
        monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / name))

    become("first")
    return become


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/storage/x"


def stored(url: str) -> Path:
    return Path(url.removeprefix("file://"))


@pytest.mark.slow
def test_another_machine_reads_and_completes_it(
    fake_recipe: Recipe, machine: Callable[[str], None], url: str, tmp_path: Path
) -> None:
    assert url_state(url, fake_recipe) == "absent"
    made = go(fake_recipe, "recording", out=url)
    assert made.status == "complete"
    assert made.folder.is_relative_to(tmp_path / "first")
    plain = go(fake_recipe, "recording", out="plain")
    machine("second")
    read = load_trace(url, verify=True)
    assert isinstance(read, Experiment)
    assert read.folder.is_relative_to(tmp_path / "second")
    assert {run_id: digest(run) for run_id, run in read.runs.items()} == {
        run_id: digest(run) for run_id, run in plain.runs.items()
    }
    assert url_state(url, fake_recipe) == "complete"
    assert go(fake_recipe, "failing", out=url).status == "complete"
    assert sorted(path.name for path in stored(url).iterdir()) == ["experiment.json", "nsr-seed0", "psr-seed0"]


@pytest.mark.slow
def test_a_stopped_experiment_is_resumed_by_another_machine(
    fake_recipe: Recipe, machine: Callable[[str], None], url: str
) -> None:
    code = script(fake_recipe, "slow_recording", out=url, workers=2)
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    runs = [stored(url) / run_id for run_id in ("psr-seed0", "nsr-seed0")]
    wait_for(lambda: all((run / "commits" / "000001.json").exists() for run in runs) or process.poll() is not None)
    machine("second")
    with pytest.raises(UsageError, match=rf"out: another process is writing to {url} "):
        go(fake_recipe, "slow_recording", out=url, resume=True)
    assert load_trace(url).runs["psr-seed0"].committed_step >= 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert f"python -m analysis.trace --resume {url}" in errors
    assert not (stored(url) / ".writer.json").exists()
    with pytest.raises(InterruptedRunError, match=rf"out: {url} holds an unfinished .*\n.*--resume {url}"):
        go(fake_recipe, "recording", out=url)
    resumed = go(fake_recipe, "recording", out=url, resume=True)
    machine("third")
    assert go(fake_recipe, "recording", out="plain").status == resumed.status == "complete"
    for run_id, run in load_trace(url).runs.items():
        assert digest(run) == digest(load_trace(Path("plain") / run_id))


@pytest.mark.slow
def test_a_killed_writer_of_this_machine_is_followed(
    fake_recipe: Recipe, machine: Callable[[str], None], url: str
) -> None:
    code = script(fake_recipe, "slow_recording", out=url)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(stored(url).glob("*/commits/000001.json"))) > 0 or process.poll() is not None)
    process.kill()
    process.wait()
    assert json.loads((stored(url) / ".writer.json").read_text())["pid"] == process.pid
    assert go(fake_recipe, "recording", out=url, resume=True).status == "complete"


def test_a_run_that_fails_leaves_its_error_there(fake_recipe: Recipe, machine: Callable[[str], None], url: str) -> None:
    with pytest.raises(RunFailedError, match=rf"more in {url}/psr-seed0/error\.txt") as caught:
        go(fake_recipe, "failing", out=url)
    assert f"--resume {url}" in str(caught.value)
    assert "in failing" in (stored(url) / "psr-seed0" / "error.txt").read_text()
    assert json.loads((stored(url) / "experiment.json").read_text())["status"] == "interrupted"


def test_force_replaces_an_experiment_and_nothing_else(
    fake_recipe: Recipe, machine: Callable[[str], None], url: str
) -> None:
    go(fake_recipe, out=url)
    (stored(url) / "psr-seed0" / "mine.txt").touch()
    shorter = fake_recipe.set(steps=2)
    with pytest.raises(UsageError, match=rf"out: {url} holds the experiment fake"):
        go(shorter, out=url)
    assert go(shorter, out=url, force=True).status == "complete"
    assert not (stored(url) / "psr-seed0" / "mine.txt").exists()
    machine("second")
    read = load_trace(url)
    assert isinstance(read, Experiment)
    assert (read.info["hash"], list(read.runs)) == (shorter.hash, ["psr-seed0", "nsr-seed0"])
    (stored(url).parent / "y").mkdir()
    (stored(url).parent / "y" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"out: .*/y holds files that are not an experiment \(thesis\.tex\)"):
        go(fake_recipe, out=url.replace("/x", "/y"), force=True)


@pytest.mark.slow
def test_the_commands(machine: Callable[[str], None], url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run, resumed by its URL, and its report from another machine."""
    arguments = ["--set", "steps=2", "--quiet", "--no-figures"]
    assert trace(["--run", "tiny", *arguments, "--out", url, "--dry-run"]) == 0
    assert f"folder  {url} (absent)" in capsys.readouterr().out
    assert trace(["--run", "tiny", *arguments, "--out", url]) == 0
    assert trace(["--resume", url, "--quiet", "--no-figures"]) == 0
    assert (stored(url) / "summary.md").exists()
    assert (stored(url) / "report.html").exists()
    machine("second")
    capsys.readouterr()
    assert report([url]) == 0
    assert "PSR" in capsys.readouterr().out
    assert trace(["--model", "x", "--rollouts", "y", "--out", url]) == 2
    assert "--out: expected a folder with --rollouts" in capsys.readouterr().err


def test_options_of_ray_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, Any] = {}

    def run(recipe: Recipe, **options: Any) -> None:
        received.update(options)
        raise UsageError("enough")

    monkeypatch.setattr("analysis.experiments.experiment.run", run)
    assert trace(["--run", "tiny", "--executor", "ray", "--ray-address", "auto", "--out", "s3://b/x"]) == 2
    assert (received["executor"], received["ray_address"], received["out"]) == ("ray", "auto", "s3://b/x")
