"""A tiny random Qwen3 and the teacher-forced pass that the context tests use; rows of every table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

VOCAB = 108


def make_model(dtype: torch.dtype = torch.float32, *, tied: bool = True) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen3ForCausalLM(config).to(dtype)
    return in_double(model) if dtype == torch.float64 else model


def in_double(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """Norms that compute in float64 as well: those of transformers cast to float32 whatever the model's dtype."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Qwen3RMSNorm):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                setattr(module, name, norm)
    return model


def make_logits_fn(model: Qwen3ForCausalLM) -> Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]:
    """(prompts, responses) -> (B, R, V); prompts are left-padded, responses right-padded."""

    def logits(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        width, height = max(map(len, prompts)), max(map(len, responses))
        rows = zip(prompts, responses, strict=True)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) + list(r) + [0] * (height - len(r)) for p, r in rows])
        real = torch.arange(width) >= width - torch.tensor([len(p) for p in prompts])[:, None]
        mask = torch.cat([real, torch.ones(len(prompts), height, dtype=torch.bool)], 1)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=height + 1,
        )
        return out.logits[:, :-1]

    return logits


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return make_model()


@pytest.fixture
def model64() -> Qwen3ForCausalLM:
    return make_model(torch.float64)
