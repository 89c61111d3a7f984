"""Models of people in the training loop: several end tokens, and models whose rows depend on their batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.recipes import Recipe
from analysis.records import load_trace
from analysis.training import loop, train
from tests.offline.byte_models import byte_tokenizer, small_model
from toy_models import Policy, get_task


def path_base(folder: Path, **fields: Any) -> Path:
    """A small model with the tokenizer of the task path-small."""
    tokenizer = get_task("path-small").tokenizer
    Policy(small_model(len(tokenizer), **fields), tokenizer).save(folder)
    return folder


def test_a_run_refuses_a_model_whose_rows_depend_on_their_batch(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    task = get_task("path-small")
    room = len(task.prompts("test")[0].ids) + task.max_new_tokens - 1  # the last token is never read
    base = path_base(tmp_path / "base", max_position_embeddings=room, rope_parameters=rope)
    run = Recipe.load("tiny").set(**{"policy.base": str(base)}).expand()[0]
    with pytest.raises(UsageError, match=r"policy\.base: expected a model whose numbers .* dynamic NTK"):
        train(run.config, tmp_path / "run", run_id=run.run_id, label=run.label)


def test_the_prompts_of_the_noise_are_checked_as_those_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"policy.base": str(path_base(tmp_path / "base")), "eval.prompts": 1, "eval.final_prompts": 1}
    settings |= {"record.noise_every": 1, "record.noise_prompts": 3, "task.train_prompts": 4, "rollout.prompts": 4}
    checked: list[tuple[str, ...]] = []
    for name, place in (("check_fit", 2), ("check_batching", 1)):

        def note(*arguments: Any, place: int = place) -> None:
            checked.append(tuple(prompt.prompt_id for prompt in arguments[place] if prompt.split == "validation"))

        monkeypatch.setattr(loop, name, note)
    run = Recipe.load("tiny").set(**settings).expand()[0]
    made = loop.Loop(run.config, tmp_path / "run", run_id=run.run_id, label=run.label)
    assert len(made.held_out.noise) == 3
    assert len(checked) == 2
    assert all(set(ids) == {prompt.prompt_id for prompt in made.held_out.noise} for ids in checked)


def test_a_run_samples_and_judges_with_every_end_token(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<end>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    with torch.no_grad():  # hidden states of one sign, so that a few tokens are common: both ends, "1" and "2"
        for name, parameter in model.named_parameters():
            if "embed" in name:
                parameter.abs_()
            elif "layers" in name and parameter.ndim > 1:
                parameter.mul_(0.01)
        model.lm_head.weight.fill_(-1.0)
        model.lm_head.weight[[tokenizer.eos_token_id, end, *tokenizer.encode("12")]] = 0.0
    folder = tmp_path / "base"
    Policy(model, tokenizer).save(folder)
    lines = [json.dumps({"prompt": f"{i}+{i}=", "answer": "1"}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "steps": 1,
        "policy.base": str(folder),
        "task.name": "file",
        "task.train_file": str(tmp_path / "train.jsonl"),
        "task.verifier": "exact",
        "task.train_prompts": 4,
        "rollout.prompts": 4,
        "rollout.group_size": 16,
        "rollout.max_new_tokens": 4,
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "eval.samples": 1,
        "record.contexts": 0,
    }
    config = Recipe.load("tiny").set(**settings).expand()[0]
    train(config.config, tmp_path / "run", run_id=config.run_id, label=config.label)
    rollouts = load_trace(tmp_path / "run").table("rollouts")
    last = [ids[-1] for ids in rollouts["response_ids"]]
    assert set(last) >= {tokenizer.eos_token_id, end}
    assert rollouts["finished"].tolist() == [token in (tokenizer.eos_token_id, end) for token in last]
    assert rollouts["reward"].tolist() == [
        float(ids[:-1].tolist() == tokenizer.encode("1") and token in (tokenizer.eos_token_id, end))
        for ids, token in zip(rollouts["response_ids"], last, strict=True)
    ]
    assert rollouts.groupby(last)["reward"].sum()[[tokenizer.eos_token_id, end]].min() > 0
