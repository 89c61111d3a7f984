from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from analysis import InterruptedRunError, UsageError
from analysis.experiments import RunFailedError, experiment
from analysis.experiments.experiment import default_folder, folder_state, resume_command
from analysis.recipes import Recipe
from analysis.records.folders import read_experiment, read_run_json, update_experiment
from tests.experiments.fake_experiments import FAILED, WAIT_SECONDS, alive, calls, go, script, wait_for


@pytest.fixture
def recipe(fake_recipe: Recipe) -> Recipe:
    return fake_recipe


class TestStates:
    def test_fresh_then_complete(self, recipe: Recipe) -> None:
        folder = default_folder(recipe)
        assert folder == Path("runs") / f"fake-{recipe.hash[:8]}"
        assert folder_state(folder, recipe) == "absent"
        made = go(recipe)
        assert made.folder == folder
        assert made.status == "complete"
        assert list(made.runs) == ["psr-seed0", "nsr-seed0"]
        assert folder_state(folder, recipe) == "complete"
        info = read_experiment(folder)
        assert info["hash"] == recipe.hash
        assert Recipe.from_dict(info["recipe"]) == recipe

    def test_complete_is_returned_without_training(self, recipe: Recipe) -> None:
        folder = go(recipe).folder
        assert go(recipe, "failing").status == "complete"
        assert len(calls(folder, "psr-seed0")) == 1

    def test_another_recipe_is_refused(self, recipe: Recipe) -> None:
        go(recipe, out="x")
        with pytest.raises(UsageError, match=r"out: x holds the experiment fake .*choose another folder with --out"):
            go(recipe.set(steps=5), out="x")

    def test_force_starts_anew(self, recipe: Recipe) -> None:
        go(recipe, out="x")
        (Path("x") / "psr-seed0" / "mine.txt").touch()
        assert go(recipe.set(steps=5), out="x", force=True).status == "complete"
        assert not (Path("x") / "psr-seed0" / "mine.txt").exists()

    @pytest.mark.parametrize("force", [False, True])
    def test_foreign_files_are_never_touched(self, recipe: Recipe, force: bool) -> None:
        Path("x").mkdir()
        (Path("x") / "thesis.tex").touch()
        with pytest.raises(UsageError, match="out: x holds files that are not an experiment"):
            go(recipe, out="x", force=force)
        assert (Path("x") / "thesis.tex").exists()

    @pytest.mark.parametrize("force", [False, True])
    def test_damaged_experiment_is_refused(self, recipe: Recipe, force: bool) -> None:
        Path("x").mkdir()
        (Path("x") / "experiment.json").write_text("{")
        with pytest.raises(UsageError, match=r"got a damaged .*experiment\.json"):
            go(recipe, out="x", force=force)

    def test_out_is_a_file(self, recipe: Recipe) -> None:
        Path("x").touch()
        with pytest.raises(UsageError, match="out: expected a folder, got the file x"):
            go(recipe, out="x")

    def test_out_cannot_be_made(self, recipe: Recipe) -> None:
        Path("x").touch()
        with pytest.raises(UsageError, match="out: expected a folder that can be written"):
            go(recipe, out="x/y")

    @pytest.mark.parametrize("workers", [0, -1, True, 1.5])
    def test_workers(self, recipe: Recipe, workers: Any) -> None:
        with pytest.raises(UsageError, match="workers: expected an integer ≥ 1"):
            go(recipe, workers=workers)

    def test_base_that_is_none(self, recipe: Recipe) -> None:
        with pytest.raises(
            UsageError, match=r"policy\.base = 'tinny': .*, which is not a folder \(did you mean tiny\?\)"
        ):
            go(recipe.set(**{"policy.base": "tinny"}))
        assert not Path("runs").exists()

    def test_base_without_tokenizer(self, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "base" / "tokenizer.json").unlink()
        with pytest.raises(UsageError, match=r"policy\.base: .* has no tokenizer"):
            go(recipe)

    def test_two_processes_never_write_one_experiment(self, recipe: Recipe) -> None:
        from filelock import FileLock

        Path("x").mkdir()
        with (
            FileLock(Path("x") / ".lock"),
            pytest.raises(UsageError, match="out: another process is writing to x"),
        ):
            go(recipe, out="x")


class TestKilledMoments:
    """What a kill of the parent leaves behind between two of its own writes."""

    def test_while_the_experiment_is_first_written(self, recipe: Recipe) -> None:
        folder = default_folder(recipe)
        folder.mkdir(parents=True)
        for name in (".lock", "experiment.json.tmp"):
            (folder / name).touch()
        assert go(recipe).status == "complete"
        assert not (folder / "experiment.json.tmp").exists()

    def test_after_the_last_run_ended(self, recipe: Recipe) -> None:
        folder = go(recipe).folder
        update_experiment(folder, status="running")
        state = folder / "psr-seed0" / "state" / "000004.pt"
        state.parent.mkdir()
        state.touch()
        assert go(recipe, "failing").status == "complete"
        assert read_experiment(folder)["status"] == "complete"
        assert not state.exists()

    @pytest.mark.parametrize("at", range(4))
    def test_while_force_deletes(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """At the renames of two runs and of experiment.json, and at the deletion: whole runs or none."""
        folder = go(recipe).folder
        moves = []

        def rename(self: Path, target: Path) -> None:
            if len(moves) == at:
                raise KeyboardInterrupt
            moves.append(self.name)
            os.rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            if at == 3:
                patch.setattr(experiment.shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                go(recipe, force=True)
        assert folder_state(folder, recipe) == ("absent" if at == 3 else "complete" if at == 0 else "unfinished")
        assert ("experiment.json" in moves) == (at == 3)
        assert go(recipe, resume=True, force=at == 0).status == "complete"
        assert [len(calls(folder, run_id)) for run_id in ("psr-seed0", "nsr-seed0")] == [1, 1]
        assert not (folder / ".deleted").exists()


class TestRuns:
    def test_each_in_its_own_process_with_its_threads(self, recipe: Recipe) -> None:
        folder = go(recipe.set(threads=3), workers=2).folder
        (psr,), (nsr,) = calls(folder, "psr-seed0"), calls(folder, "nsr-seed0")
        assert len({psr[0], nsr[0], str(os.getpid())}) == 3
        assert (psr[2], nsr[2]) == ("3", "3")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_at_most_so_many_at_a_time(self, recipe: Recipe, workers: int) -> None:
        most = now = 0

        def count(event: dict[str, Any]) -> None:
            nonlocal most, now
            now += {"start": 1, "complete": -1}.get(event["phase"], 0)
            most = max(most, now)

        go(recipe.set(**{"grid.seed": [0, 1]}), workers=workers, callbacks=[count])
        assert (most, now) == (workers, 0)

    def test_events_name_their_run(self, recipe: Recipe) -> None:
        events: list[dict[str, Any]] = []
        go(recipe, callbacks=[events.append])
        mine = [event for event in events if event["run_id"] == "nsr-seed0"]
        assert [event["phase"] for event in mine] == ["start", *["rollout"] * 4, "complete"]
        assert [event["step"] for event in mine[1:-1]] == [0, 1, 2, 3]
        assert {event["label"] for event in mine} == {"NSR"}

    def test_output_of_libraries_does_not_disturb(self, recipe: Recipe) -> None:
        assert go(recipe, "chatty").status == "complete"

    def test_failing_run_leaves_its_siblings_alone(self, recipe: Recipe) -> None:
        with pytest.raises(RunFailedError, match=FAILED.format("no luck")) as caught:
            go(recipe, "failing")
        folder = caught.value.folder
        assert "in failing" in (folder / "psr-seed0" / "error.txt").read_text()
        assert read_run_json(folder / "nsr-seed0")["status"] == "complete"
        assert read_experiment(folder)["status"] == "interrupted"

    def test_failed_run_can_be_resumed(self, recipe: Recipe) -> None:
        with pytest.raises(RunFailedError):
            go(recipe, "failing")
        made = go(recipe, resume=True)
        assert made.status == "complete"
        assert len(calls(made.folder, "nsr-seed0")) == 1
        assert not (made.folder / "psr-seed0" / "error.txt").exists()

    def test_diverged_run_leaves_its_siblings_alone(self, recipe: Recipe) -> None:
        events: list[dict[str, Any]] = []
        made = go(recipe, "diverging", callbacks=[events.append])
        assert {run_id: one.status for run_id, one in made.runs.items()} == {
            "psr-seed0": "diverged",
            "nsr-seed0": "complete",
        }
        assert made.status == "diverged"
        assert folder_state(made.folder, recipe) == "complete"

    def test_what_every_run_refuses_is_one_usage_error(self, recipe: Recipe) -> None:
        with pytest.raises(UsageError, match=r"^task\.train_prompts: expected at most 7, got 9$"):
            go(recipe, "refusing")

    def test_unknown_train(self, recipe: Recipe) -> None:
        with pytest.raises(RunFailedError, match="has no attribute 'nothing'"):
            go(recipe, "nothing")

    def test_callback_that_raises_leaves_no_process(self, recipe: Recipe) -> None:
        folder = default_folder(recipe)

        def fail(event: dict[str, Any]) -> None:
            if event["phase"] == "rollout":
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            go(recipe, "slow", callbacks=[fail])
        started = list(folder.glob("*/calls.txt"))
        assert started
        assert not any(alive(int(line.split()[0])) for path in started for line in path.read_text().splitlines())
        assert read_experiment(folder)["status"] == "interrupted"


class TestSignals:
    def start(self, recipe: Recipe, train: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script(recipe, train, **options)]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        folder = default_folder(recipe)
        wait_for(lambda: len(list(folder.glob("*/calls.txt"))) == 2 or process.poll() is not None)
        return process

    def workers(self, recipe: Recipe) -> list[int]:
        return [int(calls(default_folder(recipe), run_id)[0][0]) for run_id in ("psr-seed0", "nsr-seed0")]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_first_ends_runs_after_their_step(self, recipe: Recipe, number: int) -> None:
        process = self.start(recipe, "slow", workers=2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=WAIT_SECONDS)
        folder = default_folder(recipe)
        assert resume_command(folder) in errors
        assert process.returncode != 0
        for run_id in ("psr-seed0", "nsr-seed0"):
            assert read_run_json(folder / run_id)["status"] == "interrupted"
            assert (folder / run_id / "steps.txt").read_text() == "0\n"
        assert not any(map(alive, self.workers(recipe)))
        with pytest.raises(InterruptedRunError, match=r"unfinished .*\n  python -m analysis\.trace --resume"):
            go(recipe)
        assert go(recipe, "slow", resume=True).status == "complete"
        assert [call[1] for call in calls(folder, "psr-seed0")] == ["False", "True"]
        assert (folder / "psr-seed0" / "steps.txt").read_text() == "0\n1\n2\n3\n"

    def test_handlers_are_restored(self, recipe: Recipe) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        go(recipe)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_while_the_base_is_made(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        def ensure(name: str, seed: int, progress: Any) -> None:
            progress(1, 10, 2.5)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(WAIT_SECONDS)

        monkeypatch.setattr("analysis.experiments.many_runs.ensure_base", ensure)
        recipe = recipe.set(**{"policy.base": "tiny"})
        events: list[dict[str, Any]] = []
        with pytest.raises(KeyboardInterrupt, match="stopped; resume with"):
            go(recipe, callbacks=[events.append])
        (event,) = events
        assert event == {"run_id": None, "label": "base tiny", "phase": "pretrain", "step": 1, "steps": 10, "loss": 2.5}
        assert folder_state(default_folder(recipe), recipe) == "unfinished"


class TestWithoutMainGuard:
    def test_script(self, recipe: Recipe, tmp_path: Path) -> None:
        path = tmp_path / "plain.py"
        path.write_text(script(recipe, "complete"))
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "complete\n", "")

    def test_a_folder_named_like_us_does_not_get_in_the_way(self, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "analysis").mkdir()
        (tmp_path / "analysis" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
        assert go(recipe).status == "complete"

    def test_experiment_json_is_plain(self, recipe: Recipe) -> None:
        text = (go(recipe).folder / "experiment.json").read_text()
        assert json.loads(text)["runs"] == [
            {"run_id": "psr-seed0", "label": "PSR", "seed": 0},
            {"run_id": "nsr-seed0", "label": "NSR", "seed": 0},
        ]
