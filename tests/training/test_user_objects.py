"""Tasks and policies handed over as objects: protocol, identity, pickles, and going on from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import analysis.report
from analysis import UsageError
from analysis.experiments import run
from analysis.recipes import Recipe
from analysis.records import digest
from analysis.records.folders import read_experiment, read_run_json
from analysis.trace import main
from analysis.training import train
from analysis.training.user_objects import adopted, load_given, write_given
from toy_models import get_task, load_policy
from toy_models.tasks.path import SmallPathTask

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "name": "mine",
    "steps": 4,
    "grid": "unset",
    "policy.base": "unset",
    "task.name": "unset",
    "record.chunk": 2,
    "rollout.prompts": 8,
    "eval.prompts": 4,
    "eval.final_prompts": 8,
    "eval.every": 2,
    "record.contexts": 8,
}
# A class of the main module, as one in a notebook cell is
CELL = """
from toy_models.tasks.path import SmallPathTask
class Walk(SmallPathTask):
    name = "walk"
    def solutions(self, prompt_ids):
        return None
"""

SETS = """
class Walk:
    def verify(self, prompt, response):
        return response in {"left", "right", "up", "down"}
"""


def recipe(**settings: Any) -> Recipe:
    return Recipe.load("tiny").set(**SETTINGS, **settings)


def walk(source: str = CELL) -> Any:
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(source, cell)
    return cell["Walk"]()


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy("tiny")


class TestProtocol:
    def test_a_task_that_lacks_methods(self) -> None:
        class Half:
            name = "half"
            tokenizer = None

            def prompts(self, split: str) -> list[Any]:
                return []

        message = (
            r"(?s)task: expected a task, got Half, which lacks.*max_new_tokens.*verify: verify\(prompt_ids.*solutions: "
        )
        with pytest.raises(UsageError, match=message):
            run(recipe(), task=Half(), quiet=True)  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_a_policy_that_lacks_members(self, policy: Any) -> None:
        with pytest.raises(
            UsageError, match=r"(?s)expected a policy, got Qwen3ForCausalLM, which lacks.*tokenizer: .*pad_id"
        ):
            run(recipe(), policy=policy.model, quiet=True)

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"verify": lambda self, p, r: True}, r"task.verify: expected a toy_models.Verdict .*, got bool"),
            ({"verify": lambda self, p, r: sys.exit(0)}, r"task.verify: expected a .*Verdict, but it called exit\(0\)"),
            ({"prompts": lambda self, split: ["a"]}, r"task.prompts\('train'\): expected toy_models.Prompt"),
            ({"prompts": lambda self, split: []}, r"task.prompts\('train'\): expected at least one prompt"),
            (
                {"prompts": lambda self, split: SmallPathTask.prompts(self, split)[:1] * 2},
                r"task.prompts\('train'\): expected a distinct prompt_id for each prompt",
            ),
        ],
    )
    def test_what_methods_give(self, members: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            adopted(recipe(), {"task": type("Odd", (SmallPathTask,), members)()})

    @pytest.mark.slow
    def test_a_recipe_that_names_another(self, policy: Any) -> None:
        with pytest.raises(
            UsageError,
            match=r'expected a recipe without task.name, got .* with task.name = "path-small" and a task object',
        ):
            run(Recipe.load("tiny"), task=walk(), quiet=True)
        with pytest.raises(
            UsageError, match=r'policy: expected a recipe without policy.base, got tiny with policy.base = "tiny"'
        ):
            run(Recipe.load("tiny"), policy=policy, quiet=True)

    @pytest.mark.slow
    def test_what_needs_solutions(self, policy: Any) -> None:
        with pytest.raises(UsageError, match=r"eval.samples = 0: the task walk does not list its correct responses"):
            run(recipe(**{"eval.samples": 0}), task=walk(), policy=policy, quiet=True)
        exact = {
            "update.estimator": "exact",
            "update.minibatches": 1,
            "update.rows": "keep",
            "update.normalizer": "constant",
            "update.constant": 8.0,
            "objective.clip_low": "unset",
            "objective.clip_high": "unset",
        }
        with pytest.raises(UsageError, match=r'update.estimator = "exact": the task walk does not list'):
            run(recipe(**exact), task=walk(), policy=policy, quiet=True)


class TestIdentity:
    @pytest.mark.slow
    def test_is_the_same_in_every_session(self, policy: Any) -> None:
        first = adopted(recipe(), {"task": walk(), "policy": policy})
        assert adopted(recipe(), {"task": walk(), "policy": load_policy("tiny")}).hash == first.hash

    @pytest.mark.slow
    def test_follows_prompts_and_length_and_weights(self, policy: Any) -> None:
        class Fewer(SmallPathTask):
            def prompts(self, split: str) -> Any:
                return super().prompts(split)[:-1]

        class Longer(SmallPathTask):
            max_new_tokens = 12

        tasks = [adopted(recipe(), {"task": kind()}).hash for kind in (SmallPathTask, Fewer, Longer)]
        assert len(set(tasks)) == 3
        other = load_policy("tiny")
        next(other.model.parameters()).data[0, 0] += 1e-3
        assert adopted(recipe(), {"policy": other}).hash != adopted(recipe(), {"policy": policy}).hash

    @pytest.mark.parametrize(
        ("old", "new", "same"),
        [
            ("return None", "return ()", False),
            ("return None", "return None  # they are many", True),
            ("return None", "return self.splits and None", False),
            ("import SmallPathTask\n", "import SmallPathTask\n\n\n", True),
            ('name = "walk"', 'name, longest = "walk", 3', False),
        ],
    )
    def test_follows_the_code_of_the_class(self, old: str, new: str, same: bool) -> None:
        changed = CELL.replace(old, new)
        assert changed != CELL
        assert (adopted(recipe(), {"task": walk(changed)}).hash == adopted(recipe(), {"task": walk()}).hash) is same

    def test_does_not_depend_on_the_session(self) -> None:
        code = (
            f"from analysis.training.object_digest import object_digest\ncell = {{'__name__': '__main__'}}\n"
            f"exec({SETS!r}, cell)\nprint(object_digest(cell['Walk']()))"
        )
        digests = {
            subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | {"PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(digests) == 1


class TestPickles:
    def test_classes_of_the_main_module_go_by_value(self, tmp_path: Path) -> None:
        write_given(tmp_path, {"task": walk()})
        back = load_given(tmp_path, "task")
        assert (back.name, back.solutions(())) == ("walk", None)

    def test_what_cannot_be_pickled(self, tmp_path: Path) -> None:
        task = walk()
        task.lock = threading.Lock()
        with pytest.raises(UsageError, match="task: Walk cannot be sent to the processes that train: TypeError"):
            write_given(tmp_path, {"task": task})

    def test_what_is_not_there_or_damaged(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected the pickled task in .*task.pkl, which is missing"):
            load_given(tmp_path, "task")
        (tmp_path / "given").mkdir()
        (tmp_path / "given" / "task.pkl").write_bytes(b"no pickle")
        with pytest.raises(UsageError, match=r"task.pkl cannot be loaded: UnpicklingError"):
            load_given(tmp_path, "task")


class TestFolder:
    @pytest.fixture(autouse=True)
    def _importable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT)

    def go(self, out: Path, **options: Any) -> Any:
        return run(recipe(), out=out, quiet=True, train="tests.experiments.fake_training:complete", **options)

    @pytest.mark.slow
    def test_holds_the_pickles_and_their_digests(self, tmp_path: Path, policy: Any) -> None:
        self.go(tmp_path / "out", task=walk(), policy=policy)
        assert set(read_experiment(tmp_path / "out")["inputs"]) == {"given/task.pkl", "given/policy.pkl"}
        self.go(tmp_path / "out", task=walk(), policy=policy)  # complete: the records again

    @pytest.mark.slow
    def test_another_task_is_another_experiment(self, tmp_path: Path, policy: Any) -> None:
        self.go(tmp_path / "out", task=walk(), policy=policy)
        with pytest.raises(UsageError, match="holds the experiment mine"):
            self.go(tmp_path / "out", task=get_task("path-small"), policy=policy)

    @pytest.mark.slow
    def test_a_recipe_of_objects_without_them(self, tmp_path: Path, policy: Any) -> None:
        asking = adopted(recipe(), {"task": walk(), "policy": policy})
        with pytest.raises(UsageError, match=r"the recipe needs a task object; pass it with"):
            run(asking, out=tmp_path / "out", quiet=True)
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_a_pickle_that_was_changed(self, tmp_path: Path, policy: Any) -> None:
        out = tmp_path / "out"
        self.go(out, task=walk(), policy=policy)
        (out / "nsr-seed0" / "run.json").unlink(missing_ok=True)
        (out / "reinforce-seed0" / "run.json").unlink(missing_ok=True)
        (out / "given" / "task.pkl").write_bytes(b"other")
        with pytest.raises(UsageError, match=r"other contents of given/task.pkl; restore them"):
            self.go(out, task=walk(), policy=policy, resume=True)


@pytest.mark.slow
def test_is_stopped_and_goes_on_from_a_shell(
    tmp_path: Path, policy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out = walk(), tmp_path / "out"

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(recipe(), task=task, policy=policy, out=out, quiet=True, callbacks=[stop])
    monkeypatch.setitem(vars(analysis.report), "write_figures", lambda experiment: [])
    assert main(["--resume", str(out), "--quiet"]) == 0
    assert "at equal steps (step 4)" in capsys.readouterr().out

    (one,) = adopted(recipe(), {"task": task, "policy": policy}).expand()
    write_given(tmp_path / "whole", {"task": task, "policy": policy})
    train(one.config, tmp_path / "whole" / one.run_id, run_id=one.run_id, label=one.label)
    assert digest(out / one.run_id) == digest(tmp_path / "whole" / one.run_id)
    assert read_run_json(out / one.run_id)["task"] == "walk"
