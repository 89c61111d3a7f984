"""Tiny GGUF files of the architecture llama, written with the package gguf from a random model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
END = "<|im_end|>"


def vocabulary() -> list[str]:
    """The tokens: three special ones, those of the bytes, and one that is merged from two of them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<|endoftext|>", "<|im_start|>", END, *sorted(ByteLevel.alphabet()), "12"]


def random_llama(hidden: int = 32, seed: int = 0) -> Any:
    """A random llama with a tied head whose sizes suit the blocks of 32 weights of the quantised types."""
    import transformers as hf

    config = hf.LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        rms_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = hf.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0.0, 0.3)
    return model.eval()


def write_gguf(
    path: Path,
    model: Any = None,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    template: str | None = TEMPLATE,
) -> Any:
    """Write a GGUF file of a random llama with weights of the type `kind` and return the model.

    Written against llama.cpp's convention, which interleaves the rows of the query and key weights.
    """
    import gguf

    model = model or random_llama()
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    words = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3, *[1] * (len(words) - 3)])
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, value in _tensors(model):
        if value.ndim > 1 and kind != "F32":
            writer.add_tensor(name, gguf.quants.quantize(value, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _tensors(model: Any) -> list[tuple[str, np.ndarray]]:
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    tensors = [("token_embd.weight", model.model.embed_tokens.weight), ("output_norm.weight", model.model.norm.weight)]
    for index, layer in enumerate(model.model.layers):
        for ours, theirs in names.items():
            weight = layer.get_submodule(ours).weight
            if (n := heads.get(theirs)) is not None:
                weight = weight.view(n, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            tensors.append((f"blk.{index}.{theirs}.weight", weight))
    return [(name, value.detach().contiguous().numpy()) for name, value in tensors]
