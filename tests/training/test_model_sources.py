"""The training loop on policies that come from elsewhere than a folder of transformers."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError, run
from analysis.experiments.downloads import download_models, pinned_run
from analysis.recipes import Recipe, plan
from analysis.recipes.inputs import changed_inputs, input_digests
from analysis.recipes.model_checks import pinned
from analysis.records import digest, load_trace
from analysis.training import train
from analysis.training.setup import load_policy_and_task, load_teacher
from tests.offline.byte_models import byte_tokenizer, small_model
from tests.toy_models.model_sources.fake_hub import FIRST, SECOND, FakeHub, cache_snapshot, fake_hub, hub_error
from tests.toy_models.model_sources.tiny_gguf import random_llama, write_gguf
from toy_models import Policy, Prompt, load_policy

__all__ = ["fake_hub"]


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
    made = recipe.expand()[0]
    return train(made.config, folder, run_id=made.run_id, label=made.label, resume=resume, should_stop=lambda: stop)


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


def test_a_plan_needs_the_package_of_gguf_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr("toy_models.model_sources.gguf_cache.version", missing)
    with pytest.raises(
        UsageError, match=r"policy\.base = .*expected the package gguf, which reads GGUF files, got none"
    ):
        plan(file_recipe(tmp_path, tmp_path / "model.gguf"))


def test_a_plan_refuses_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"policy\.base = .*expected a GGUF file, got .*does not begin with"):
        plan(file_recipe(tmp_path, tmp_path / "model.gguf"))
    with pytest.raises(
        UsageError, match=r"policy\.base = .*missing.gguf': expected .*, a GGUF file or .*\(no such file\)"
    ):
        plan(file_recipe(tmp_path, tmp_path / "missing.gguf"))


def saved_model(folder: Path, seed: int = 0) -> Path:
    tokenizer = byte_tokenizer()
    Policy(small_model(len(tokenizer), seed=seed), tokenizer).save(folder)
    return folder


def test_a_model_of_the_hub_counts_by_its_commit(fake_hub: FakeHub, tmp_path: Path) -> None:
    content = saved_model(tmp_path / "model")
    cache_snapshot(fake_hub.cache, "owner/name", FIRST, content)
    cache_snapshot(fake_hub.cache, "owner/name", SECOND, content, "v2")
    recipe = file_recipe(tmp_path, "owner/name")
    assert (
        recipe.set(**{"policy.revision": FIRST}).hash == recipe.set(**{"policy.revision": "main"}).hash == recipe.hash
    )
    assert recipe.set(**{"policy.revision": "v2"}).hash != recipe.hash
    inputs = input_digests(recipe.expand()[0].config)
    assert inputs["policy.base"] == {"path": "hub:owner/name@main", "commit": FIRST}
    assert changed_inputs(tmp_path, {"hub:owner/name@main": FIRST}) == []
    cache_snapshot(fake_hub.cache, "owner/name", SECOND, content)
    assert changed_inputs(tmp_path, {"hub:owner/name@main": FIRST}) == ["hub:owner/name@main"]


def test_a_plan_refuses_a_model_that_the_hub_does_not_give(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.failure = hub_error("GatedRepoError", 403)
    with pytest.raises(UsageError, match=r"policy\.base = 'owner/name': expected .* owner/name, which is gated"):
        plan(file_recipe(tmp_path, "owner/name"))
    distilled = {"objective.name": "opd", "objective.teacher": "owner/big", "objective.form": "unset", "grid": "unset"}
    with pytest.raises(UsageError, match=r"objective\.teacher = 'owner/big': expected .* owner/big, which is gated"):
        plan(Recipe.load("tiny").set(**distilled))
    with pytest.raises(UsageError, match=r"policy\.base = 'tiny': expected a revision only with the id of a model"):
        plan(Recipe.load("tiny").set(**{"policy.revision": "v2"}))


def test_the_revision_of_a_teacher_is_its_own(fake_hub: FakeHub, tmp_path: Path) -> None:
    content = saved_model(tmp_path / "model")
    cache_snapshot(fake_hub.cache, "owner/big", FIRST, content)
    cache_snapshot(fake_hub.cache, "owner/big", SECOND, saved_model(tmp_path / "other", seed=1), "v2")
    distilled = {"objective.name": "opd", "objective.form": "unset", "grid": "unset", "objective.teacher": "owner/big"}
    recipe = file_recipe(tmp_path, content).set(**distilled)
    later = recipe.set(**{"objective.teacher_revision": "v2"})
    assert recipe.hash != later.hash
    assert later.set(**{"objective.teacher_revision": SECOND}).hash == later.hash
    config = later.expand()[0].config
    assert (pinned(config).objective.teacher_revision, pinned(config).policy.revision) == (SECOND, None)
    policy = load_policy(content)
    teacher = load_teacher(config, policy, torch.device("cpu"), [Prompt("", (5,), "", "train", "")], 3)
    assert teacher is not None
    assert torch.equal(teacher.lm_head.weight, load_policy(tmp_path / "other").model.lm_head.weight)


@pytest.mark.slow
def test_a_run_says_its_commit_and_does_not_resume_with_another(fake_hub: FakeHub, tmp_path: Path) -> None:
    cache_snapshot(fake_hub.cache, "owner/name", FIRST, saved_model(tmp_path / "model"))
    recipe = file_recipe(tmp_path, "owner/name", objective__kl_coef=0.1)
    assert train_run(recipe, tmp_path / "run", stop=True) == "interrupted"
    stored = json.loads((tmp_path / "run/run.json").read_text())
    assert stored["recipe"]["policy"] | {"base": "owner/name", "revision": FIRST} == stored["recipe"]["policy"]
    cache_snapshot(fake_hub.cache, "owner/name", SECOND, saved_model(tmp_path / "other", seed=1))
    with pytest.raises(UsageError, match="can only be resumed with what it was started"):
        train_run(recipe, tmp_path / "run", resume=True)
    assert train_run(recipe.set(**{"policy.revision": FIRST}), tmp_path / "run", resume=True) == "complete"


@pytest.mark.slow
def test_an_experiment_downloads_first_and_names_the_commit_that_moved(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", FIRST, saved_model(tmp_path / "model"))
    recipe = file_recipe(tmp_path, "owner/name", steps=0).set(grid="unset")
    events: list[dict[str, Any]] = []
    download_models(recipe.expand()[0].config, events.append)
    assert {event["phase"] for event in events} == {"download"}
    assert pinned_run(recipe.expand()[0]).config.policy.revision == FIRST
    run(recipe, out=tmp_path / "out", quiet=True, workers=1)
    cache_snapshot(fake_hub.cache, "owner/name", SECOND, tmp_path / "model")
    with pytest.raises(UsageError, match=rf"other contents of hub:owner/name@main; restore them \(with .* = {FIRST}\)"):
        run(recipe, out=tmp_path / "out", quiet=True, workers=1)


def test_end_tokens_of_the_recipe_end_responses(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "model")
    for end_tokens, correct in ((None, False), (["="], True)):
        fields = {} if end_tokens is None else {"policy__end_tokens": end_tokens}
        config = file_recipe(tmp_path, base, **fields).expand()[0].config
        policy, task = load_policy_and_task(config, torch.device("cpu"))
        prompt = task.prompts("train")[0]
        response = policy.tokenizer.encode(f"{prompt.answer}=")
        assert (response[-1] in policy.end_ids) == correct
        assert task.verify(prompt.ids, response).correct == correct
