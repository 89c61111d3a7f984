"""A rollout has the log-probs that it has alone, for models whose rows depend on their batch, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from analysis import UsageError, trace_rollouts
from tests.offline.byte_models import alone, byte_tokenizer, small_model

PROMPT = "1+1="
TEXTS = ("2 ok done", "x" * 60, "2" * 28, "2" * 29, "y" * 70, "2")  # with the prompt 13, 64, 32, 33, 74 and 5 tokens


def longrope(vocab: int) -> Any:
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 8.0, 32.0],
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
    }
    return small_model(vocab, hf.Phi3Config, original_max_position_embeddings=32, rope_parameters=rope)


def dynamic(vocab: int) -> Any:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return small_model(vocab, max_position_embeddings=32, rope_parameters=rope)


def scaled_by_width(vocab: int) -> Any:
    """A model that no configuration describes: its last layer scales with the width of the batch."""
    model = small_model(vocab)
    model.model.norm.register_forward_hook(lambda module, inputs, output: output * (1 + output.shape[1] / 50))
    return model


def traced(model: Any, folder: Path, texts: Any = TEXTS, **options: Any) -> Any:
    rows = [{"prompt": PROMPT, "response": text, "reward": 1.0} for text in texts]
    return trace_rollouts(model, byte_tokenizer(), rows, out=folder, **options)


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_every_rollout_has_the_log_probs_that_it_has_alone(tmp_path: Path, make: Any) -> None:
    tokenizer = byte_tokenizer()
    run = traced(make(len(tokenizer)), tmp_path)
    tokens = run.table("tokens")
    for i, text in enumerate(TEXTS):
        # a model of its own for each row: dynamic NTK keeps the frequencies of the longest row that it has seen
        expected = alone(make(len(tokenizer)), tokenizer.encode(PROMPT), tokenizer.encode(text))
        np.testing.assert_allclose(tokens.loc[tokens["rollout"] == i, "log_prob"], expected, atol=2e-4, err_msg=text)


def test_what_the_configuration_does_not_say_is_found_on_the_first_batch(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    run = traced(scaled_by_width(len(tokenizer)), tmp_path / "a")
    one = traced(scaled_by_width(len(tokenizer)), tmp_path / "b", batch_tokens=1)
    np.testing.assert_array_equal(run.table("tokens")["log_prob"], one.table("tokens")["log_prob"])
    (note,) = run.info["trace"]["notes"]
    assert note.startswith("Rollouts went through the model one at a time: rollout 5 has other hidden states alone")
    again = traced(scaled_by_width(len(tokenizer)), tmp_path / "a", objectives=["nsr-log"])
    assert again.info["trace"]["notes"] == [note]


def test_experts_with_a_capacity_are_traced_one_at_a_time(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer))
    model.config.expert_capacity = 8
    widths = []
    model.model.register_forward_pre_hook(
        lambda module, arguments, named: widths.append(named["input_ids"].shape[0]), with_kwargs=True
    )
    run = traced(model, tmp_path)
    assert set(widths) == {1}
    assert "capacity (expert_capacity)" in run.info["trace"]["notes"][0]


def test_models_that_look_at_what_follows_are_refused(tmp_path: Path) -> None:
    model = small_model(len(byte_tokenizer()))
    model.model.norm.register_forward_hook(lambda module, inputs, output: output + output.mean(1, keepdim=True))
    with pytest.raises(UsageError, match=r"expected a causal model, got LlamaForCausalLM, whose numbers for a token"):
        traced(model, tmp_path)


def test_dropout_is_off_while_a_model_in_training_mode_is_traced(tmp_path: Path) -> None:
    model = small_model(len(byte_tokenizer()), attention_dropout=0.5)
    expected = traced(model, tmp_path / "a").table("tokens")["log_prob"]
    model.train()
    np.testing.assert_array_equal(traced(model, tmp_path / "b").table("tokens")["log_prob"], expected)
    assert model.training
    assert torch.is_grad_enabled()
