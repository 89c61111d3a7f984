"""The sizes of a model, from its configuration alone: what estimates of memory and time are made of.

Read are `config.json` of a folder, the header of a GGUF file, or a table of well-known models of the Hub that need not
be downloaded; no weights, and no torch. The number of parameters is that of the decoder that nearly all open models
are (grouped attention with a gated feed-forward part, or GPT-2's), from

    layer = d·q + 2·d·kv + q·d + (3 gated, 2 else)·d·f + norms and biases,    q, kv = heads × head width

and the embedding, once where head and embedding are tied. Mixtures of experts have other layers and are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_models.model_sources.gguf_header import read_header

__all__ = ["HUB_MODELS", "ModelShape", "adapter_weights", "model_shape", "shape_of_config"]


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder.

    Attributes:
        layers: number of layers.
        width: d, of the residual stream.
        query: q, width of all query heads together.
        key_value: kv, width of all key heads together, which is that of the values.
        heads: number of query heads.
        feed_forward: f, width of the feed-forward part.
        vocabulary: rows of the embedding.
        tied: whether the output head is the embedding.
        gated: whether the feed-forward part has a gate (Llama's); false: GPT-2's two matrices.
        head_norms: whether queries and keys are normalised in each head (Qwen3's).
        parameters: number of all weights.
    """

    layers: int
    width: int
    query: int
    key_value: int
    heads: int
    feed_forward: int
    vocabulary: int
    tied: bool
    gated: bool
    head_norms: bool
    parameters: int

    @property
    def body(self) -> int:
        """Weights that multiply every token: all but the embedding and the output head."""
        return self.parameters - self.vocabulary * self.width * (1 if self.tied else 2)


def _config(width: int, layers: int, heads: int, groups: int, feed_forward: int, vocabulary: int, **more: Any) -> Any:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    values = dict(zip(names, (width, layers, heads, groups, feed_forward), strict=True))
    return values | {"vocab_size": vocabulary, "model_type": "qwen2", "tie_word_embeddings": True} | more


# Of the config.json that lies beside the weights on the Hub, so that a dry run needs no download.
HUB_MODELS: Mapping[str, Mapping[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _config(576, 30, 9, 3, 1536, 49_152, model_type="llama"),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _config(960, 32, 15, 5, 2560, 49_152, model_type="llama"),
    "Qwen/Qwen2.5-0.5B": _config(896, 24, 14, 2, 4864, 151_936),
    "Qwen/Qwen2.5-1.5B": _config(1536, 28, 12, 2, 8960, 151_936),
    "Qwen/Qwen2.5-Math-1.5B": _config(1536, 28, 12, 2, 8960, 151_936),
    "Qwen/Qwen2.5-3B": _config(2048, 36, 16, 2, 11_008, 151_936),
    "Qwen/Qwen2.5-7B": _config(3584, 28, 28, 4, 18_944, 152_064, tie_word_embeddings=False),
    "Qwen/Qwen2.5-Math-7B": _config(3584, 28, 28, 4, 18_944, 152_064, tie_word_embeddings=False),
    "Qwen/Qwen3-0.6B": _config(1024, 28, 16, 8, 3072, 151_936, model_type="qwen3", head_dim=128),
    "Qwen/Qwen3-1.7B": _config(2048, 28, 16, 8, 6144, 151_936, model_type="qwen3", head_dim=128),
    "Qwen/Qwen3-4B": _config(2560, 36, 32, 8, 9728, 151_936, model_type="qwen3", head_dim=128),
}


def model_shape(base: str | Path) -> ModelShape | None:
    """The sizes of a model by its folder, GGUF file or id on the Hub; None where they cannot be told.

    Args:
        base: the folder of a model (its adapter's base for an adapter is not looked for), a GGUF file, or an id.

    >>> shape = model_shape("Qwen/Qwen2.5-0.5B")
    >>> shape.parameters, shape.body
    (494032768, 357898112)
    """
    if str(base) in HUB_MODELS:
        return shape_of_config(HUB_MODELS[str(base)])
    path = Path(base).expanduser()
    if path.is_file():
        try:
            return shape_of_config(_of_gguf(read_header(path)))
        except (ValueError, OSError, KeyError):
            return None
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return shape_of_config(config) if isinstance(config, dict) else None


def adapter_weights(shape: ModelShape, r: int, targets: Sequence[str] | None = None) -> int:
    """The number of weights of a LoRA adapter of rank `r`: r·(inputs + outputs) for each layer that has one.

    Args:
        shape: sizes of the model.
        r: the rank.
        targets: names of linear layers as models of the Llama family have them; unset, or where none of the names is
            known: all but the head.

    >>> adapter_weights(model_shape("Qwen/Qwen2.5-0.5B"), 8, ["q_proj", "v_proj"])
    540672
    """
    d, q, kv, f = shape.width, shape.query, shape.key_value, shape.feed_forward
    sizes = {"q_proj": d + q, "k_proj": d + kv, "v_proj": d + kv, "o_proj": q + d, "up_proj": d + f, "down_proj": f + d}
    if shape.gated:
        sizes["gate_proj"] = d + f
    named = {name.rpartition(".")[2] for name in targets or ()}
    chosen = [size for name, size in sizes.items() if name in named] or list(sizes.values())
    return r * shape.layers * sum(chosen)


def _of_gguf(header: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a GGUF header under the names of config.json."""
    kind = header["general.architecture"]
    width, heads = header[f"{kind}.embedding_length"], header[f"{kind}.attention.head_count"]
    return {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": header[f"{kind}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": header.get(f"{kind}.attention.head_count_kv", heads),
        "head_dim": header.get(f"{kind}.attention.key_length", width // heads),
        "intermediate_size": header[f"{kind}.feed_forward_length"],
        "vocab_size": header[f"{kind}.vocab_size"],
        "tie_word_embeddings": True,  # files of small models leave the head out; else this is d·V too few
    }


def shape_of_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The sizes that a `config.json` states; None where it lacks one of them, or has experts."""
    text = config.get("text_config")
    config = text if isinstance(text, Mapping) else config
    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None

    def whole(*names: str) -> int | None:
        values = [config[name] for name in names if isinstance(config.get(name), int)]
        return values[0] if values else None

    width, layers = whole("hidden_size", "n_embd", "d_model"), whole("num_hidden_layers", "n_layer", "num_layers")
    heads, vocabulary = whole("num_attention_heads", "n_head", "num_heads"), whole("vocab_size")
    if not width or not layers or not heads or not vocabulary:
        return None
    kind = str(config.get("model_type", ""))
    gated = kind not in ("gpt2", "gpt_neo", "gpt_neox", "opt", "phi", "bloom")
    feed_forward = whole("intermediate_size", "n_inner", "ffn_dim") or 4 * width
    head = whole("head_dim") or width // heads
    query, key_value = heads * head, (whole("num_key_value_heads") or heads) * head
    tied = bool(
        config.get("tie_word_embeddings", kind in ("gpt2", "gpt_neo", "bloom", "gemma", "gemma2", "gemma3_text"))
    )
    head_norms = kind.startswith("qwen3")
    layer = width * (2 * query + 2 * key_value) + (3 if gated else 2) * width * feed_forward
    if gated:
        layer += (
            2 * width + (query + 2 * key_value if kind.startswith("qwen2") else 0) + (2 * head if head_norms else 0)
        )
        layer += 2 * width if kind in ("gemma2", "gemma3_text") else 0  # norms after attention and feed-forward too
        rest = width
    else:  # biases everywhere, two norms with biases, learned positions
        layer += query + 2 * key_value + width + feed_forward + width + 4 * width
        rest = 2 * width + (whole("n_positions", "max_position_embeddings") or 0) * width * (
            kind in ("gpt2", "gpt_neo", "opt")
        )
    total = layers * layer + rest + vocabulary * width * (1 if tied else 2)
    return ModelShape(layers, width, query, key_value, heads, feed_forward, vocabulary, tied, gated, head_norms, total)
