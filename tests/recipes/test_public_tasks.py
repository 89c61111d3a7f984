"""Recipes with a task of another package: which fields go together, what a plan refuses, what identifies a run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.recipes import Recipe, plan
from analysis.recipes.config import FIELDS, config_from_dict, config_to_dict
from analysis.recipes.inputs import identified
from analysis.recipes.public_tasks import public_task
from tests.toy_models.tasks.verifiers_stand_in import write_stand_in

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

GYM: dict[str, Any] = {
    "task.name": "reasoning-gym",
    "task.dataset": "gcd",
    "task.train_prompts": 6,
    "task.splits": {"validation": 2, "test": 3},
    "rollout.prompts": 4,
    "rollout.max_new_tokens": 8,
    "eval.prompts": 2,
    "eval.final_prompts": 3,
    "eval.samples": 4,
}


def NO_VERIFIER() -> Any:
    raise AssertionError("reasoning-gym scores by itself")


def recipe(**changed: Any) -> Recipe:
    return Recipe("gym", values={}).set(**(GYM | changed))


def config(**changed: Any) -> Any:
    return recipe(**changed).expand()[0].config


@pytest.fixture(autouse=True, scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a plan asks of a folder with a model: that it has a configuration and a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    GYM["policy.base"] = str(folder)


class TestTables:
    """A field whose value is a table of any entries."""

    def test_round_trip(self) -> None:
        made = config(**{"task.config": {"max_value": 50, "operators": ["+", "-"], "deep": {"a": 0.5}}})
        assert made.task.config == {"max_value": 50, "operators": ("+", "-"), "deep": {"a": 0.5}}
        plain = config_to_dict(made)
        assert plain["task"]["config"] == {"max_value": 50, "operators": ["+", "-"], "deep": {"a": 0.5}}
        assert config_from_dict(plain) == made
        assert hash(made) == hash(config_from_dict(plain))

    def test_single_entries_are_set_and_varied(self) -> None:
        base = recipe(**{"task.config.max_value": 50})
        assert base.override("task.config.min_value=2").expand()[0].config.task.config == {
            "max_value": 50,
            "min_value": 2,
        }
        runs = base.set(**{"grid.task.config.max_value": [10, 20]}).expand()
        assert [run.config.task.config for run in runs] == [{"max_value": 10}, {"max_value": 20}]
        assert runs[0].run_id.endswith("max-value10-seed0")
        assert base.set(**{"task.config": "unset"}).expand()[0].config.task.config == {}
        assert Recipe.from_dict(base.to_dict()).expand() == base.expand()

    def test_entries_are_plain(self) -> None:
        with pytest.raises(UsageError, match=r"task.config.x: expected true or false, a number, a string or a list"):
            recipe(**{"task.config.x": None})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("task.dataset", "lcm"),
        ("task.config", {"max_value": 20}),
        ("task.splits", {"validation": 2, "test": 4}),
        ("task.seed", 1),
        ("task.system", "Answer with a number."),
        ("task.answer_tag", "answer"),
        ("task.normal_form", True),
    ],
)
def test_each_field_changes_the_task_and_the_hash(path: str, value: Any) -> None:
    settings: dict[str, Any] = {}
    if path == "task.system":
        settings = {"task.chat_template": True}
    if path == "task.normal_form":
        numbers = {"min_numbers": 2, "max_numbers": 2, "min_target": 1, "max_target": 99}
        settings = {"task.dataset": "countdown", "task.config": numbers}
    before, after = recipe(**settings), recipe(**(settings | {path: value}))
    made = [public_task(r.expand()[0].config, NO_VERIFIER) for r in (before, after)]
    if path in ("task.answer_tag", "task.normal_form"):
        reference = str(made[0].items("test")[0].reference)
        wrong = f"({reference})" if path == "task.normal_form" else reference
        assert [task.score(task.items("test")[0], wrong).correct for task in made] == [True, False]
    else:
        assert made[0].items("train") != made[1].items("train")
    assert before.hash != after.hash
    for task in made:
        task.close()


class TestRules:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"task.dataset": "unset"}, 'task.name = "reasoning-gym" without task.dataset: name the data set'),
            ({"rollout.max_new_tokens": "unset"}, "without rollout.max_new_tokens: its answers have no longest length"),
            ({"task.system": "Go."}, "task.system with task.chat_template = false: a system message needs a template"),
            ({"task.splits": {"train": 5}}, "task.splits.train: expected validation or test with a number"),
            ({"task.splits": {"test": 0}}, "task.splits.test: expected validation or test .* got 0"),
            ({"task.name": "path"}, "task.dataset, task.splits with task.name = .path.: these fields belong to"),
            ({"task.verifier": "math"}, "task.verifier with task.name = .reasoning-gym.: these fields belong to"),
        ],
    )
    def test_refused_in_the_recipe(self, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            recipe(**changed)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"task.dataset": "gdc"}, r'task.dataset = "gdc": expected one of the \d+ data sets .*did you mean gcd'),
            ({"task.config.max_valu": 3}, "task.dataset = .gcd.: field of the data set gcd.*did you mean max_value"),
            ({"task.dataset": "chain_sum", "eval.samples": 0}, "eval.samples = 0 with .*cannot be listed .*; set eval"),
            ({"eval.prompts": 3}, "eval.prompts: expected at most 2, the number of validation prompts of task"),
        ],
    )
    def test_refused_in_the_plan(self, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan(recipe(**changed))

    def test_planned(self) -> None:
        assert plan(recipe(**{"eval.samples": 0})).runs

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from toy_models.tasks import gym_imports

        def absent(name: str) -> str:
            raise gym_imports.importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(gym_imports.importlib.metadata, "version", absent)
        with pytest.raises(UsageError, match=r"expected the package reasoning-gym, got none; pip install"):
            recipe().hash  # noqa: B018


def test_the_version_of_the_package_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_models.tasks import gym_imports

    before = identified(config())["task"]["dataset"]
    assert before == f"gcd of reasoning-gym {gym_imports.gym_version()}"
    monkeypatch.setattr(gym_imports.importlib.metadata, "version", lambda name: "9.9")
    assert identified(config())["task"]["dataset"] == "gcd of reasoning-gym 9.9"


def test_fields_of_public_tasks_leave_older_hashes_alone() -> None:
    assert Recipe.load("tiny").hash.startswith("d69c72fe")
    assert FIELDS["task.config"].expected == "a table"


def test_the_recipe_of_the_page_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "public_tasks.md").read_text(encoding="utf-8")
    (block, *_) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    made = Recipe.from_dict({"name": "page"} | tomllib.loads(block)).expand()[0].config
    assert (made.task.dataset, made.task.config["max_value"], made.eval.samples) == ("gcd", 60, 0)


class TestDatasets:
    """The task `dataset` in a recipe."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        rows = [{"q": f"{i}", "a": {"b": str(i)}} for i in range(30)]
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "numbers"))
        return tmp_path / "numbers"

    def settings(self, saved: Path, **changed: Any) -> dict[str, Any]:
        columns = {"task.prompt_column": "q", "task.answer_column": "a.b"}
        return {"task.name": "dataset", "task.dataset": str(saved), "task.splits": "unset"} | columns | changed

    def test_planned_and_identified_by_its_content(self, saved: Path, tmp_path: Path) -> None:
        made = recipe(**self.settings(saved))
        assert plan(made).runs
        before, other = made.hash, recipe(**self.settings(saved, **{"task.answer_column": "a"})).hash
        assert before != other
        saved.rename(tmp_path / "elsewhere")
        moved = recipe(**self.settings(tmp_path / "elsewhere"))
        assert identified(moved.expand()[0].config)["task"]["dataset"].startswith("sha256:")
        assert moved.hash == before

    def test_a_relative_folder_is_relative_to_the_recipe(self, saved: Path, tmp_path: Path) -> None:
        text = 'schema = 1\n[policy]\nbase = "b"\n[task]\nname = "dataset"\ndataset = "numbers"\ntrain_prompts = 5\n'
        text += "[rollout]\nprompts = 4\nmax_new_tokens = 4\n[eval]\nsamples = 2\n"
        (tmp_path / "mine.toml").write_text(text)
        assert Recipe.load(tmp_path / "mine.toml").expand()[0].config.task.dataset == str(saved)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"task.prompt_column": "question"}, r"train\] row 1: no column 'question'; it has q, a.b"),
            ({"task.splits": {"test": "test", "train": "train"}}, "expected one of its splits train, got 'test'"),
            ({"task.verifier": "no.py:f"}, r"task.verifier = '.*no.py:f': verifier: expected an existing Python file"),
            ({"task.train_prompts": 26}, "task.train_prompts: expected at most 25, the number of train prompts"),
            ({"eval.samples": 0}, "eval.samples = 0: its correct responses cannot be listed"),
            ({"task.splits": {"dev": "train"}}, "task.splits.dev: expected one of train, validation, test"),
            (
                {"task.seed": 1},
                'task.seed with task.name = "dataset": these fields belong to .* "reasoning-gym"; leave',
            ),
            ({"task.train_file": "a.jsonl"}, 'task.train_file with task.name = "dataset": these fields belong to'),
        ],
    )
    def test_refused(self, saved: Path, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan(recipe(**self.settings(saved, **changed)))


class TestEnvironments:
    """The task `verifiers` in a recipe, with a stand-in for the package where it is not installed."""

    @pytest.fixture
    def environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        from tests.toy_models.tasks import test_verifiers_env as env

        if not env.REAL:
            write_stand_in(tmp_path / "site")
            monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return env.environment(tmp_path, env.taskset())

    def settings(self, environment: str, **changed: Any) -> dict[str, Any]:
        named = {"task.name": "verifiers", "task.dataset": environment, "task.splits": "unset"}
        sizes = {"task.train_prompts": 8, "task.config.size": 12, "eval.prompts": 1, "eval.final_prompts": 1}
        return named | sizes | changed

    def test_planned_and_identified_by_its_source(self, environment: str) -> None:
        made = recipe(**self.settings(environment))
        assert plan(made).runs
        before = made.hash
        Path(environment).write_text(Path(environment).read_text() + "\nMORE = 1\n")
        assert recipe(**self.settings(environment)).hash != before

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"task.config.siz": 3}, "task.dataset = .*: environment .*: task.config.siz: expected one of"),
            ({"eval.samples": 0}, "eval.samples = 0 with .*: the correct responses of an environment cannot be listed"),
            ({"task.train_prompts": 11}, "task.train_prompts: expected at most 10, the number of train prompts"),
            ({"task.answer_tag": "a"}, 'task.answer_tag with task.name = "verifiers": these fields belong to'),
        ],
    )
    def test_refused(self, environment: str, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan(recipe(**self.settings(environment, **changed)))
