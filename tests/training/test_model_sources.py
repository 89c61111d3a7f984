"""The training loop on policies that come from elsewhere than a folder of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.recipes import Recipe, plan
from analysis.recipes.inputs import input_digests
from analysis.records import digest, load_trace
from analysis.training import train
from tests.toy_models.model_sources.tiny_gguf import random_llama, write_gguf
from toy_models import load_policy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "cache"))


def file_recipe(folder: Path, base: Path | str, **fields: Any) -> Recipe:
    """Two steps on a file of sums; dotted fields with a double underscore."""
    lines = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(40)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "steps": 2,
        "policy.base": str(base),
        "task.name": "file",
        "task.train_file": str(folder / "train.jsonl"),
        "task.train_prompts": 4,
        "rollout.prompts": 4,
        "rollout.group_size": 4,
        "rollout.max_new_tokens": 3,
        "optimizer.lr": 1e-3,
        "eval.prompts": 2,
        "eval.final_prompts": 2,
        "eval.samples": 1,
        "record.contexts": 4,
        "record.jvp_every": 1,
        "record.chunk": 1,
    }
    return Recipe.load("tiny").set(**settings | {name.replace("__", "."): value for name, value in fields.items()})


def train_run(recipe: Recipe, folder: Path, *, resume: bool = False, stop: bool = False) -> str:
    run = recipe.expand()[0]
    return train(run.config, folder, run_id=run.run_id, label=run.label, resume=resume, should_stop=lambda: stop)


@pytest.mark.slow
def test_a_run_on_a_gguf_file_resumes_with_the_same_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    recipe = file_recipe(tmp_path, tmp_path / "model.gguf")
    assert train_run(recipe, tmp_path / "whole") == "complete"
    assert train_run(recipe, tmp_path / "resumed", stop=True) == "interrupted"
    assert train_run(recipe, tmp_path / "resumed", resume=True) == "complete"
    whole, resumed = load_trace(tmp_path / "whole"), load_trace(tmp_path / "resumed")
    assert digest(whole) == digest(resumed)
    assert load_policy(tmp_path / "resumed/checkpoints/final").tokenizer.chat_template is not None


def test_the_recipe_of_a_gguf_file_holds_its_content(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    recipe = file_recipe(tmp_path, tmp_path / "model.gguf")
    before = recipe.hash
    (tmp_path / "other.gguf").write_bytes((tmp_path / "model.gguf").read_bytes())
    assert recipe.set(**{"policy.base": str(tmp_path / "other.gguf")}).hash == before
    assert input_digests(recipe.expand()[0].config)["policy.base"]["path"] == str(tmp_path / "model.gguf")
    write_gguf(tmp_path / "model.gguf", random_llama(seed=1))
    assert recipe.hash != before


def test_a_relative_gguf_file_starts_at_the_folder_of_the_recipe(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    (tmp_path / "mine.toml").write_text('schema = 1\n[policy]\nbase = "model.gguf"\n')
    assert Recipe.load(tmp_path / "mine.toml").values["policy.base"] == str(tmp_path / "model.gguf")


def test_a_plan_knows_whether_a_gguf_file_has_a_chat_template(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    assert plan(file_recipe(tmp_path, tmp_path / "model.gguf", task__chat_template=True)).runs
    write_gguf(tmp_path / "bare.gguf", template=None)
    with pytest.raises(
        UsageError, match=r"task\.chat_template: expected a tokenizer with a chat template, got that of"
    ):
        plan(file_recipe(tmp_path, tmp_path / "bare.gguf", task__chat_template=True))


def test_a_plan_refuses_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"policy\.base = .*expected a GGUF file, got .*does not begin with"):
        plan(file_recipe(tmp_path, tmp_path / "model.gguf"))
    with pytest.raises(UsageError, match=r"policy\.base: expected a built-in base, a folder .* or a GGUF file, got"):
        plan(file_recipe(tmp_path, tmp_path / "missing.gguf"))
