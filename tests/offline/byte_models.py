"""Tokenizers of one token a byte, with a few special tokens, and small models of many kinds, for the tests of offline
traces."""

from __future__ import annotations

import copy
from typing import Any

import torch


def byte_tokenizer(template: Any = None) -> Any:
    """One token a byte, then <pad>, <eos>, <bos>, <end>, <turn>."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<end>", "<turn>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def starting_tokenizer() -> Any:
    """The same, of the package tokenizers, with <bos> before every text by default, as Gemma's and Llama 3's."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    start = ("<bos>", tokenizer.bos_token_id)
    core = tokenizer.backend_tokenizer
    core.post_processor = TemplateProcessing(single="<bos> $A", pair="<bos> $A $B", special_tokens=[start])
    return core


def space_marking_tokenizer() -> Any:
    """A tokenizer of sentencepiece's kind: "2" at the start of a text is the token of a 2 after a space."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", "▁", *"Q:1+=2ok?", "▁Q", "▁1", "▁2", "ok", "▁ok", "=2"]
    merges = [("▁", "Q"), ("▁", "1"), ("▁", "2"), ("o", "k"), ("▁", "ok"), ("=", "2")]
    core = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, unk_token="<unk>", merges=merges))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def small_model(vocab: int, config: Any = None, *, seed: int = 0, **fields: Any) -> Any:
    """A random causal LM, far from uniform, without end tokens of its own."""
    import transformers as hf

    usual = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = hf.AutoModelForCausalLM.from_config((config or hf.LlamaConfig)(**(usual | fields)))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.3)
    return model.eval()


def alone(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    """log π of each response token in float64, the whole row alone."""
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(input_ids=torch.tensor([prompt + response])).logits[0]
    log_probs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(log_probs[i, token]) for i, token in enumerate(response)]
