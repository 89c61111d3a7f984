"""Gradient checkpointing: the same gradients with fewer tensors kept, in models of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analysis import UsageError
from analysis.recipes import Recipe
from analysis.records import digest, load_trace
from analysis.training import train
from analysis.training.loop import Loop
from analysis.training.recomputed_layers import check_layers, recomputed_layers
from tests.training.test_resume_state import NAMED, config_of, killed_after, model
from tests.training.test_shared_prompts import CASES, compare, updated
from toy_models import response_logits, teacher_batch

__all__ = ["model"]

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL |= {"vocab_size": 19, "intermediate_size": 24, "max_position_embeddings": 32, "initializer_range": 0.4}


def models() -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    built = {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
        "gemma2": Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, attn_implementation="eager")),
        "dropout": LlamaForCausalLM(LlamaConfig(**SMALL, attention_dropout=0.5)),
    }
    built["lora"] = get_peft_model(
        LlamaForCausalLM(LlamaConfig(**SMALL)), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in built["lora"].named_parameters():
        if "lora_B" in name:  # zero at the start, where its partner has no gradient
            nn.init.normal_(parameter, std=0.3)
    return {name: model.double().eval() for name, model in built.items()}


def gradients(model: Any, *, again: bool) -> tuple[list[torch.Tensor], int]:
    """Of a sum of log-probs; and the bytes that autograd kept."""
    batch = teacher_batch([[3, 4, 5], [6, 7, 8]], [[8, 9, 10], [11, 12]], 0)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if again:
            with recomputed_layers(model):
                logits = response_logits(model, batch)
        else:
            logits = response_logits(model, batch)
    wanted = [p for p in model.parameters() if p.requires_grad]
    value = logits.log_softmax(-1).gather(-1, batch.tokens[..., None])[..., 0][batch.mask].sum()
    return list(torch.autograd.grad(value, wanted)), sum(kept.values())


@pytest.mark.parametrize("name", models())
def test_the_gradients_of_a_plain_pass(name: str) -> None:
    model = models()[name]
    plain, plain_bytes = gradients(model, again=False)
    again, bytes_kept = gradients(model, again=True)
    assert any(bool(g.any()) for g in plain)
    for a, b in zip(again, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)  # the same operations in the same order
    assert bytes_kept < plain_bytes / 2


def test_the_model_is_left_as_it_was() -> None:
    model = models()["llama"]
    layer = model.model.layers[0]
    own = layer.forward
    layer.forward = lambda *arguments, **named: own(*arguments, **named)  # as tools that hook an instance leave it
    before = [dict(module.__dict__) for module in model.modules()]

    def fail_inside() -> None:
        with recomputed_layers(model):
            assert "forward" in model.model.layers[1].__dict__
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    for module, held in zip(model.modules(), before, strict=True):
        assert module.__dict__.keys() == held.keys()
        assert module.__dict__.get("forward") is held.get("forward")
    assert not model.training


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["grpo", "k3 in the loss", "full KL", "critic"])
def test_the_update_of_a_plain_pass(name: str, shared: bool) -> None:
    """Regularisers take a second backward pass through the same graph, which computes the layers once more."""
    fields = {"gradient_checkpointing": True, "micro_batch_tokens": 40, "shared_prompts": shared}
    compare(updated(CASES[name], **fields), updated(CASES[name]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_an_adapter(model: Path, tmp_path: Path, dtype: str) -> None:
    """Its weights alone are trained, in passes bounded by tokens whose layers are computed again; resumed as it was."""
    changes = {"policy.lora.r": 2, "policy.dtype": dtype, "update.gradient_checkpointing": True, "steps": 3}
    changes |= {"update.micro_batch_tokens": 16, "task.false_positive": 0.5}
    config = config_of(model, **changes)
    assert Loop(config, tmp_path / "whole", **NAMED).run() == "complete"
    killed_after(config, tmp_path / "parts", 2)
    resumed = Loop(config, tmp_path / "parts", resume=True, **NAMED)
    assert resumed.run() == "complete"
    assert digest(load_trace(tmp_path / "parts")) == digest(load_trace(tmp_path / "whole"))
    assert load_trace(tmp_path / "whole").table("updates").param_step_norm.gt(0).any()


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"update.gradient_checkpointing: expected a model .* got Linear, which has"):
        check_layers(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r'"exact" requires .*update.gradient_checkpointing = false'):
        Recipe.load("tiny").set(
            **{"grid": "unset", "update.gradient_checkpointing": True, "update.estimator": "exact"}
        ).expand()


@pytest.mark.slow
def test_a_run_with_contexts_and_derivatives_has_the_same_records(tmp_path: Path) -> None:
    settings = {"grid": "unset", "steps": 2, "objective.name": "grpo", "update.rows": "keep", "record.jvp_every": 1}
    settings |= {"eval.prompts": 2, "eval.final_prompts": 2, "objective.entropy_coef": 0.01}
    digests = set()
    for again in (False, True):
        (planned,) = Recipe.load("tiny").set(**settings, **{"update.gradient_checkpointing": again}).expand()
        assert train(planned.config, tmp_path / str(again), run_id="r", label="L") == "complete"
        trace = load_trace(tmp_path / str(again))
        assert trace.table("flows").jvp_dlog_prob.notna().any()
        digests.add(digest(trace))
    assert len(digests) == 1
