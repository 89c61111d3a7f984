"""Estimates of memory: of layers against what autograd keeps, of a run against its measured peak, and their parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.recipes import Recipe, RunConfig
from analysis.recipes.memory import AT_ONCE, estimated_memory, layer_floats, pass_tokens, size_text
from analysis.recipes.model_shape import ModelShape, model_shape, shape_of_config
from analysis.training import token_logits
from tests.recipes.test_model_shape import SMALL
from toy_models import teacher_batch

ROOT = Path(__file__).parents[2]


def kept_bytes(model: Any, *, padded: bool, rows: int = 3, prompt: int = 10, response: int = 20) -> float:
    """Bytes for each token that autograd keeps of a forward pass, weights aside."""
    prompts = [[3] * (prompt - (padded and i == 0)) for i in range(rows)]
    batch = teacher_batch(prompts, [[4] * response] * rows, 0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if padded:
        inputs |= {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**inputs, use_cache=False, logits_to_keep=1)
    size = sum(kept.values())
    del output
    return size / batch.input_ids.numel()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 24, "intermediate_size": 200}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("qwen3", {"head_dim": 16}),
        ("gpt2", {}),
    ],
)
def test_a_layer_keeps_what_is_said(kind: str, changes: dict[str, Any], padded: bool) -> None:
    """The difference of models of one and two layers, whatever else they keep."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = SMALL | changes
    if kind == "gpt2":
        config = {"vocab_size": 99, "n_embd": 64, "n_head": 4, "n_positions": 64}
    layers = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    one, two = (
        kept_bytes(
            AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config | {layers: count})).eval(),
            padded=padded,
        )
        for count in (1, 2)
    )
    shape = shape_of_config(AutoConfig.for_model(kind, **config).to_dict())
    assert shape is not None
    # heads are few here, so that what is kept for each of them weighs more than in real models
    assert 4 * layer_floats(shape, padded=padded) == pytest.approx(two - one, rel=0.06)


def a_config(**changes: Any) -> RunConfig:
    settings = {"grid": "unset", "objective.name": "grpo", "update.rows": "keep", "update.minibatches": "unset"}
    settings |= {
        "rollout.prompts": 8,
        "rollout.group_size": 4,
        "record.contexts": 0,
        "optimizer.max_grad_norm": "unset",
    }
    (run,) = Recipe.load("tiny").set(**settings | changes).expand()
    return run.config


SHAPE = model_shape("Qwen/Qwen2.5-0.5B")
WEIGHTS = 494_032_768


def estimate(prompt: int = 100, response: int = 200, **changes: Any) -> Any:
    assert SHAPE is not None
    return estimated_memory(a_config(**changes), SHAPE, prompt, response)


def test_parts_by_hand() -> None:
    plain = estimate()
    assert plain.parts["weights"] == plain.parts["copies of the weights"] == 4 * WEIGHTS
    assert plain.parts["optimiser"] == 8 * WEIGHTS
    assert plain.state == 12 * WEIGHTS
    assert plain.checkpoint == 4 * WEIGHTS
    assert plain.peak == sum(plain.parts.values()) + max(plain.phases.values())
    low = estimate(**{"policy.dtype": "bfloat16"})
    assert low.parts["weights"] == 2 * WEIGHTS
    assert low.parts["optimiser"] == 12 * WEIGHTS  # the copies in float32, and two moments
    assert low.checkpoint == 2 * WEIGHTS
    assert estimate(**{"optimizer.name": "sgd"}).parts["optimiser"] == 0
    assert estimate(**{"objective.kl_coef": 0.1}).parts["copies of the weights"] == 8 * WEIGHTS
    assert estimate(**{"rollout.dtype": "bfloat16"}).parts["copies of the weights"] == 6 * WEIGHTS
    assert estimate(**{"record.state_every": 0, "record.checkpoint": "none"}).state == 0
    assert estimate(**{"record.checkpoint": "none"}).checkpoint == 0
    assert estimate(**{"record.contexts": 8}).parts["moments by sign"] == 8 * WEIGHTS


def test_an_adapter_trains_few_weights() -> None:
    """q_proj and v_proj at rank 8: 24 layers of 8·(896 + 896 + 896 + 128) weights."""
    few = 24 * 8 * (3 * 896 + 128)
    with_adapter = estimate(**{"policy.lora.r": 8, "policy.lora.targets": ["q_proj", "v_proj"]})
    assert with_adapter.parts["weights"] == 4 * (WEIGHTS + few)
    assert with_adapter.parts["optimiser"] == 8 * few
    assert with_adapter.parts["copies of the weights"] == 4 * few
    assert (with_adapter.state, with_adapter.checkpoint) == (12 * few, 4 * few)
    reference = {"policy.lora.r": 8, "policy.lora.targets": ["q_proj", "v_proj"], "objective.kl_coef": 0.1}
    assert estimate(**reference).parts["copies of the weights"] == 8 * few  # the base is shared
    low = estimate(**{"policy.lora.r": 8, "policy.lora.targets": ["q_proj", "v_proj"], "policy.dtype": "bfloat16"})
    assert low.parts["weights"] == 2 * (WEIGHTS + few)
    assert low.phases["loading"] + sum(low.parts.values()) == low.parts["program"] + 4 * (WEIGHTS + 2 * few)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, 32),
        ({"update.minibatches": 4}, 8),
        ({"update.minibatch_size": 5}, 5),
        ({"update.micro_batch": 3}, 3),
        ({"update.micro_batch_tokens": 1000}, 3),
        ({"update.micro_batch_tokens": 10}, 1),
    ],
)
def test_the_largest_pass(settings: dict[str, Any], rows: int) -> None:
    assert pass_tokens(a_config(**settings), 100, 200) == (300 * rows, 200 * rows)


def test_shared_prompts_count_once() -> None:
    assert pass_tokens(a_config(**{"update.shared_prompts": True}), 100, 200) == (8 * 100 + 32 * 200, 32 * 200)


@pytest.mark.parametrize(
    ("phase", "changes"),
    [
        ("update", {"update.micro_batch_tokens": 600}),
        ("update", {"update.gradient_checkpointing": True}),
        ("update", {"record.signs_every": 0}),
        ("sampling", {"rollout.batch_tokens": 600}),
        ("sampling", {"rollout.dtype": "bfloat16"}),
        ("step", {"record.signs_every": 0}),
    ],
)
def test_each_choice_saves_in_its_phase(phase: str, changes: dict[str, Any]) -> None:
    assert estimate(**changes).phases[phase] < estimate().phases[phase]


def test_half_the_tokens_of_a_pass_are_half_of_its_layers() -> None:
    assert SHAPE is not None
    bounds = [estimate(**{"update.micro_batch": rows, "record.tokens": 0.0}).phases["update"] for rows in (2, 4, 8)]
    assert bounds[2] - bounds[1] == pytest.approx(2 * (bounds[1] - bounds[0]), rel=1e-6)


def test_streamed_logits_are_bounded() -> None:
    """2·10⁵ tokens of responses are 3·10¹⁰ logits; streamed there are 2²⁵ at a time."""
    assert AT_ONCE == token_logits.AT_ONCE
    dense, streamed, auto = (
        estimate(response=1000, **{"update.logits": how, "update.gradient_checkpointing": True}).phases["update"]
        for how in ("dense", "streamed", "auto")
    )
    assert dense - streamed > 0.9 * 5 * 32 * 1000 * 151_936 * 4
    assert auto == streamed
    few = {"update.micro_batch": 1, "rollout.prompts": 1, "rollout.group_size": 2}
    assert estimate(response=100, **few | {"update.logits": "auto"}) == estimate(response=100, **few)


def test_sizes_in_words() -> None:
    assert [size_text(n) for n in (0, 999_999, 53_100_000, 9_960_000_000, 1.6e11)] == [
        "0.0 MB",
        "1.0 MB",
        "53 MB",
        "10.0 GB",
        "160 GB",
    ]
    assert "largest phase" in estimate().text()
    assert isinstance(replace(SHAPE or pytest.fail("no shape"), layers=2), ModelShape)


MEASURED = """
import json, resource, sys
from analysis.recipes import Recipe
from analysis.training import train
settings = json.loads(sys.argv[1])
(run,) = Recipe.load("tiny").set(**settings).expand()
train(run.config, sys.argv[2], run_id="r", label="L")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
@pytest.mark.parametrize(
    "changes",
    [
        {"update.micro_batch_tokens": 400, "update.gradient_checkpointing": True},
        # of the second update on, whose step has parts of earlier gradients too
        {"steps": 2, "record.contexts": 8, "record.jvp_every": 1, "record.contexts_every": 1, "record.shares_every": 1},
    ],
)
def test_a_run_needs_about_what_is_estimated(changes: dict[str, Any], tmp_path: Path) -> None:
    """A Llama of 20 million weights, whose parts are as large as the program; right within a third."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.offline.byte_models import byte_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        **SMALL | {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1152, "vocab_size": 16_000},
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i:020d}", "answer": "a"}) + "\n" for i in range(40)))
    settings = {"grid": "unset", "steps": 1, "policy.base": str(tmp_path / "model"), "task.name": "file"}
    settings |= {"task.train_file": str(data), "task.train_prompts": 8, "objective.name": "grpo", "eval.samples": 1}
    settings |= {"update.rows": "keep", "update.minibatches": "unset", "rollout.prompts": 4, "rollout.group_size": 4}
    settings |= {"rollout.max_new_tokens": 16, "eval.prompts": 1, "eval.final_prompts": 1, "record.contexts": 0}
    settings |= {"record.checkpoint": "none", "task.false_positive": 0.5} | changes  # gradients of both signs
    (run,) = Recipe.load("tiny").set(**settings).expand()
    shape = model_shape(tmp_path / "model")
    assert shape is not None
    expected = estimated_memory(run.config, shape, 20, 16).peak
    command = [sys.executable, "-c", MEASURED, json.dumps(settings), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    assert 3 / 4 < expected / int(found.stdout) < 4 / 3
