"""Random models of several architectures, for tests that must hold for any policy."""

from __future__ import annotations

from typing import Any

import torch


def random_model(kind: str, dtype: torch.dtype = torch.float32, vocab: int = 29, seed: int = 0) -> Any:
    """A causal language model of the named architecture with random weights, large enough to be far from uniform."""
    import transformers as hf

    common = {"vocab_size": vocab, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if kind == "gpt2":
        config = hf.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **common)
    else:
        config_class = {"qwen3": hf.Qwen3Config, "llama": hf.LlamaConfig}[kind]
        config = config_class(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
            **common,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.data.normal_(0.0, 0.4)
    return model.to(dtype).eval()
