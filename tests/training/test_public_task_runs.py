"""A run on a data set of reasoning-gym: a small model of bytes trains on it, and its records say who judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.experiments import run
from analysis.recipes import Recipe
from analysis.records import load_trace
from tests.offline.byte_models import byte_tokenizer

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

TOML = """
schema = 1
steps = 2
[policy]
base = "base"
[task]
name = "reasoning-gym"
dataset = "gcd"
config = { max_numbers = 2, min_value = 2, max_value = 9 }
splits = { validation = 4, test = 4 }
train_prompts = 16
[objective]
name = "grpo"
[rollout]
prompts = 4
group_size = 4
max_new_tokens = 2
[optimizer]
lr = 1e-3
[eval]
every = 1
prompts = 4
final_prompts = 4
samples = 0
[record]
contexts = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    import transformers as hf

    tokenizer = byte_tokenizer()
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "gym.toml").write_text(TOML)
    return Recipe.load(tmp_path / "gym.toml")


@pytest.mark.slow
def test_a_run_is_evaluated_exactly_and_says_what_by(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe, out=tmp_path / "out")
    trace: Any = load_trace(next(path for path in (tmp_path / "out").rglob("run.json")).parent)
    identity = trace.info["verifier"]
    assert (identity["name"], identity["data_set"]) == ("reasoning-gym", "gcd")
    assert trace.info["texts"]["solutions"] == "listed"
    prompts = trace.table("prompts")
    assert (prompts.loc[prompts["split"] == "test", "n_solutions"] == 1).all()
    rollouts = trace.table("rollouts")
    assert set(rollouts["score"].unique()) <= {0.0, 0.5, 1.0}
    evaluated = trace.table("evals")
    assert len(evaluated) > 0
    assert evaluated["p"].between(0, 1, inclusive="neither").all()
