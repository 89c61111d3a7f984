"""Small random models and a small `path` task with its own enumeration, independent of the package's."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

VOCAB = 40
COLON, END, PAD = 37, 38, 39


def qwen3(seed: int = 0, vocab: int = VOCAB) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    return _random(Qwen3ForCausalLM, config, seed)


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=END,
        eos_token_id=END,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return _random(GPT2LMHeadModel, config, seed)


def _random(kind: type, config: object, seed: int) -> torch.nn.Module:
    """Weights from an own generator, large enough that the distribution is far from uniform."""
    model = kind(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return model


def path_solutions(start: int, target: int, forbidden: tuple[int, int]) -> list[tuple[int, ...]]:
    """`d1 s1 d2 s2 … $` with 2–4 jumps d in 1…9, s the running sum, s_last = target, no s forbidden."""
    found = []
    for jumps in (2, 3, 4):
        for digits in itertools.product(range(1, 10), repeat=jumps):
            sums = [start + sum(digits[: i + 1]) for i in range(jumps)]
            if sums[-1] == target and not set(sums) & set(forbidden):
                found.append((*(t for pair in zip(digits, sums, strict=True) for t in pair), END))
    return found


def path_prompts(count: int, seed: int = 0, extra: bool = False) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    """Prompts `S T F1 F2 :` with their solutions; with `extra`, every third prompt is one token longer."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        start, target = rng.randint(0, 9), rng.randint(16, 20)
        forbidden = tuple(rng.sample([x for x in range(1, 30) if x not in (start, target)], 2))
        prompt = [start, target, *forbidden, COLON]
        out.append(([PAD - 3, *prompt] if extra and i % 3 == 0 else prompt, path_solutions(start, target, forbidden)))
    return out


@pytest.fixture(params=["qwen3", "gpt2"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return {"qwen3": qwen3, "gpt2": gpt2}[request.param]()
