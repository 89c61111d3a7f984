"""`plan`: everything that a run refuses before it loads a model, so that a dry run refuses it too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.errors import UsageError
from analysis.recipes import Recipe, plan
from analysis.recipes.cost import estimated_seconds
from tests.offline.byte_models import starting_tokenizer

FILE_TASK = {
    "grid": "unset",
    "objective.name": "reinforce",
    "update.rows": "keep",
    "task.name": "file",
    "rollout.max_new_tokens": 4,
    "rollout.prompts": 4,
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that looks like a model of somebody else's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def on_files(base: Path, prompts: list[str], **changes: object) -> Recipe:
    path = base.parent / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    settings = FILE_TASK | {"policy.base": str(base), "task.train_file": str(path), "optimizer.lr": 1e-6}
    return Recipe.load("tiny").set(**settings | {"eval.prompts": 1, "eval.final_prompts": 1} | changes)


@pytest.mark.parametrize("name", Recipe.names())
def test_built_in_recipes_pass_and_cost_what_they_say(name: str) -> None:
    planned = plan(Recipe.load(name))
    assert planned.runs == tuple(Recipe.load(name).expand())
    assert planned.cost == Recipe.load(name).cost
    assert planned.warnings == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy.base": "pth"},
            r"policy.base = 'pth': expected a built-in base, .* 'pth', which is not a folder \(did you mean",
        ),
        (
            {"policy.base": "Qwen/Qwen3-0.6B"},
            "policy.base = .*nothing can be downloaded; .* hf download Qwen/Qwen3-0.6B",
        ),
        (
            {"task.train_prompts": 99999},
            r"task.train_prompts: expected at most 2048, .*train prompts of task path, got",
        ),
        ({"eval.prompts": 9999}, r"eval.prompts: expected at most 256, the number of validation prompts"),
        ({"eval.final_prompts": 9999}, r"eval.final_prompts: expected at most \d+, the number of test prompts"),
        (
            {"record.noise_every": 2, "record.noise_prompts": 9999},
            r"record.noise_prompts: expected at most 256, the number of validation prompts",
        ),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(Recipe.load("default").set(**changes))


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_workers_are_a_positive_number(workers: int) -> None:
    with pytest.raises(UsageError, match=r"workers: expected an integer ≥ 1, got"):
        plan(Recipe.load("tiny"), workers=workers)


def test_a_chat_template_must_be_there(base: Path) -> None:
    recipe = on_files(base, [f"{i}" for i in range(20)], **{"task.train_prompts": 16, "task.chat_template": True})
    with pytest.raises(UsageError, match=r"task.chat_template: expected a tokenizer with a chat template, got that of"):
        plan(recipe)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    plan(recipe)
    (base / "chat_template.jinja").unlink()
    (base / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    plan(recipe)


def test_prompts_in_files_are_counted(base: Path) -> None:
    prompts = [*(f"{i}" for i in range(20)), "0"]  # the last one repeats the first
    plan(on_files(base, prompts, **{"task.train_prompts": 17}))  # 17 of 19, were two of them equal in tokens
    with pytest.raises(
        UsageError, match=r"task.train_prompts: expected at most 17, .* train prompts of task file, got"
    ):
        plan(on_files(base, prompts, **{"task.train_prompts": 18}))
    with pytest.raises(
        UsageError, match=r"eval.prompts: expected at most 2, .* validation prompts of task file, got 3"
    ):
        plan(on_files(base, prompts, **{"task.train_prompts": 4, "eval.prompts": 3}))


def test_a_toy_s_learning_rate_is_warned_of(base: Path) -> None:
    prompts = [f"{i}" for i in range(20)]
    changes = {"task.train_prompts": 4}
    assert plan(on_files(base, prompts, **changes)).warnings == ()
    (warning,) = plan(on_files(base, prompts, **changes, **{"optimizer.lr": 1.5e-4})).warnings
    assert "optimizer.lr = 0.00015" in warning
    assert "optimizer.lr = 1e-06" in warning
    assert plan(on_files(base, prompts, **changes, **{"optimizer.lr": 0.1, "optimizer.name": "sgd"})).warnings == ()
    (base / "config.json").write_text('{"hidden_size": 64}')  # a checkpoint of a toy
    assert plan(on_files(base, prompts, **changes, **{"optimizer.lr": 1.5e-4})).warnings == ()


def test_a_missing_start_token_is_warned_of(base: Path) -> None:
    prompts = [f"{i}" for i in range(20)]
    changes = {"task.train_prompts": 4}
    starting_tokenizer().save(str(base / "tokenizer.json"))
    (warning,) = plan(on_files(base, prompts, **changes)).warnings
    assert "puts the start token <bos> before a text by default, and the prompts of task.train_file do not" in warning
    assert "set task.bos = true" in warning
    assert plan(on_files(base, prompts, **changes, **{"task.bos": True})).warnings == ()
    assert plan(on_files(base, ["<bos>" + prompt for prompt in prompts], **changes)).warnings == ()
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert plan(on_files(base, prompts, **changes, **{"task.chat_template": True})).warnings == ()


def test_a_start_token_is_of_the_task_file() -> None:
    with pytest.raises(UsageError, match=r"task.bos with task.name = \"path-small\": these fields belong to"):
        Recipe.load("tiny").set(**{"task.bos": True})


def test_costs_follow_the_fields() -> None:
    recipe = Recipe.load("default")
    assert "years by a rough estimate" in plan(recipe.set(steps=10**12)).cost
    assert recipe.cost in plan(recipe.set(steps=80)).cost
    assert plan(recipe.set(seed=3)).cost == recipe.cost

    def seconds(**changes: object) -> float:
        found = estimated_seconds([run.config for run in recipe.set(**changes).expand()], at_a_time=2)
        assert found is not None
        return found

    start = seconds(steps=0)
    assert seconds(steps=80) - start == pytest.approx(2 * (seconds() - start))
    assert seconds(**{"grid.seed": [0, 1, 2]}) == pytest.approx(3 * seconds())
    assert seconds(**{"update.epochs": 2}) > seconds()
    assert 60 < seconds() < 180  # 90 measured


def test_the_cost_of_another_model_is_not_guessed(base: Path) -> None:
    recipe = on_files(base, [f"{i}" for i in range(20)], **{"task.train_prompts": 4, "cost": ""})
    assert plan(recipe).cost == "unknown: it depends on the model"


def test_loads_no_torch() -> None:
    code = (
        "import sys; from analysis.recipes import Recipe, plan; plan(Recipe.load('default'));"
        "sys.exit(bool({'torch', 'pandas', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
