"""The recipes for real models, run small: the same recipe with a random model and few prompts in place of the Hub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.recipes import Recipe
from analysis.records import load_trace
from analysis.training import train
from docs.generators.real_models import FOLDER, RECIPES, real_models_table
from tests.offline.byte_models import byte_tokenizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL |= {"intermediate_size": 24, "max_position_embeddings": 128}
KINDS = {"qwen2.5": "qwen2", "qwen3": "qwen3"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def small_model(name: str, folder: Path) -> Path:
    """A random model of the kind that a recipe names, with a tokenizer of bytes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    kind = KINDS[name.partition("-")[0]]
    config = AutoConfig.for_model(
        kind, **SMALL, vocab_size=len(tokenizer) + 3, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problems(path: Path) -> Path:
    """Prompts and answers in the layout that the recipes name."""
    rows = [
        {"prompt": [{"role": "user", "content": f"{i}+1"}], "reward_model": {"ground_truth": {"target": str(i + 1)}}}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_small_on_a_cpu(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "steps": 1,
        "device": "cpu",
        "policy.base": str(small_model(name, tmp_path / "model")),
        "task.train_file": str(problems(tmp_path / "problems.jsonl")),
        "task.train_prompts": 8,
        "task.verifier": "exact",  # math needs worker processes
        "task.false_positive": 0.5,  # so that a model that solves nothing has rewards of both signs
        "rollout.prompts": 4,
        "rollout.group_size": 4,
        "rollout.max_new_tokens": 6,
        "rollout.batch_tokens": 40,
        "update.micro_batch_tokens": 40,
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "eval.samples": 1,
        "record.tokens": 1.0,
    }
    recipe = Recipe.load(FOLDER / f"{name}.toml").set(**changes)
    planned = recipe.expand()[-1]
    assert train(planned.config, tmp_path / "run", run_id="r", label="L") == "complete"
    run = load_trace(tmp_path / "run")
    updates, tokens = run.table("updates"), run.table("tokens")
    assert updates.param_step_norm.gt(0).any()
    assert len(tokens) > 16
    assert tokens.entropy.between(0, 6).all()


def test_the_table_has_every_recipe_within_its_gpu() -> None:
    table = real_models_table().splitlines()
    assert len(table) == 2 + len(RECIPES)
    assert {path.stem for path in FOLDER.glob("*_math*.toml")} == set(RECIPES)
