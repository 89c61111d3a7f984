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
from analysis.training import train
from analysis.training.setup import check_batching
from tests.offline.byte_models import byte_tokenizer, small_model
from tests.offline.test_batch_dependence import dynamic, longrope, scaled_by_width
from toy_models import Policy, Prompt, prompt_hash


def policy(make: Any) -> Policy:
    tokenizer = byte_tokenizer()
    return Policy(make(len(tokenizer)), tokenizer)


def prompts(*lengths: int) -> list[Prompt]:
    made = [tuple(range(40, 40 + n)) for n in lengths]
    return [Prompt(prompt_hash(ids), ids, "x", "train", None) for ids in made]


@pytest.mark.parametrize(
    ("make", "lengths", "longest", "message"),
    [
        (longrope, (4, 9), 23, None),
        (longrope, (4, 9), 24, r"LongRoPE changes the frequencies of all rows where the longest has more than 32"),
        (longrope, (33, 40), 8, None),
        (dynamic, (4, 9), 23, None),
        (dynamic, (4, 9), 24, r"dynamic NTK scales the frequencies of all rows by the longest beyond 32 tokens"),
        (small_model, (4, 9), 60, None),
        (scaled_by_width, (4, 30), 9, r"the logits of the prompt 'x' differ alone and beside a longer prompt"),
    ],
)
def test_models_whose_rows_depend_on_their_batch(make: Any, lengths: Any, longest: int, message: str | None) -> None:
    one = policy(make)
    if message is None:
        check_batching(one, prompts(*lengths), longest)
        return
    with pytest.raises(UsageError, match=rf"policy.base: expected a model whose numbers .* {message}"):
        check_batching(one, prompts(*lengths), longest)


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
