"""Sizes of models read from configurations, against the models themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.recipes.model_shape import HUB_MODELS, adapter_weights, model_shape, shape_of_config

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL |= {"vocab_size": 99, "intermediate_size": 80, "max_position_embeddings": 64}


def built(kind: str, **config: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))


def unique_weights(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())  # a tied head counts once


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama, tied": ("llama", SMALL | {"tie_word_embeddings": True}),
    "llama, own head width": ("llama", SMALL | {"head_dim": 24}),
    "mistral": ("mistral", SMALL),
    "qwen2": ("qwen2", SMALL),
    "qwen3": ("qwen3", SMALL | {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", SMALL | {"head_dim": 16}),
    "gpt2": ("gpt2", {"vocab_size": 99, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_number_of_weights_is_exact(name: str, tmp_path: Path) -> None:
    kind, config = CASES[name]
    model = built(kind, **config)
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    shape = model_shape(tmp_path)
    assert shape is not None
    assert shape.parameters == unique_weights(model)
    embedding = model.get_input_embeddings().weight.numel()
    assert shape.body == unique_weights(model) - embedding * (1 if shape.tied else 2)


@pytest.mark.parametrize("name", HUB_MODELS)
def test_models_of_the_hub_by_their_names(name: str) -> None:
    """Built from the stated configuration; the name says how many billions of weights there are."""
    config = dict(HUB_MODELS[name])
    shape = model_shape(name)
    assert shape is not None
    assert shape.parameters == unique_weights(built(config.pop("model_type"), **config))
    stated = name.rpartition("/")[2].removesuffix("-Instruct").rpartition("-")[2]
    size = float(stated[:-1]) * (1e9 if stated.endswith("B") else 1e6)
    assert 0.9 < shape.parameters / size < 1.2


def test_a_gguf_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from analysis.recipes import model_shape as module

    header = {"general.architecture": "llama", "llama.embedding_length": 32, "llama.block_count": 3}
    header |= {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.vocab_size": 99}
    header |= {"llama.feed_forward_length": 80}
    (tmp_path / "m.gguf").write_bytes(b"")
    monkeypatch.setattr(module, "read_header", lambda _: header)
    expected = shape_of_config(SMALL | {"model_type": "llama", "tie_word_embeddings": True})
    assert model_shape(tmp_path / "m.gguf") == expected


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 4}, SMALL | {"num_local_experts": 8}, SMALL | {"vocab_size": "many"}]
)
def test_what_cannot_be_told_is_none(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_shape(tmp_path) is None
    assert model_shape(tmp_path / "nowhere") is None


@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj"), ("self_attn.o_proj", "down_proj")])
def test_the_weights_of_an_adapter(targets: tuple[str, ...] | None) -> None:
    from peft import LoraConfig, get_peft_model

    model = built("qwen2", **SMALL)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wanted = names if targets is None else [name.rpartition(".")[2] for name in targets]
    shape = shape_of_config(model.config.to_dict())
    assert shape is not None
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=wanted))
    assert adapter_weights(shape, 3, targets) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
