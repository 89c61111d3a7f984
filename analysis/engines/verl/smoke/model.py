r"""The model of the smoke run: a Qwen3 of two layers that solves about half of its task, trained in a few seconds.

It is saved as a folder that transformers loads, with its tokenizer, chat template and generation settings. The text
that it learns from errs on purpose (`SLIP`), so that prompts have correct and wrong responses, of two lengths.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from .task import LARGEST, questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RESPONSE_TOKENS", "make_model", "tokenizer"]

RESPONSE_TOKENS = 8
"""The most tokens of a response; the longest of the text has seven."""

SLIP = 0.4
STEPS, BATCH, LEARNING_RATE = 240, 64, 4e-3
_PAD, _END = "<pad>", "<|im_end|>"
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer() -> PreTrainedTokenizerBase:
    """One token for each word of the task."""
    from toy_models.tasks.tokenizer import word_tokenizer

    numbers = [str(number) for number in range(2 * LARGEST + 1)]
    made = word_tokenizer([_PAD, _END, "+", "=", "so", r"\boxed{", "}", *numbers], pad=_PAD, eos=_END)
    made.add_special_tokens({"additional_special_tokens": ["\n"]})  # verl asks every Qwen tokenizer for a line break
    made.chat_template = _TEMPLATE
    return made


def make_model(folder: Path, seed: int = 0) -> Path:
    """Train the model and save it.

    Args:
        folder: Where it is saved.
        seed: Of the initial weights and the text.

    Returns:
        The folder.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from toy_models.policy import Policy

    words = tokenizer()
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers initialises from the global generator only
        model = Qwen3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rng = random.Random(seed)
    asked = questions()
    words.padding_side = "right"
    for _ in range(STEPS):
        texts = [_text(*rng.choice(asked), rng) for _ in range(BATCH)]
        ids = words(texts, return_tensors="pt", padding=True).input_ids
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        # The prompt is four tokens, for every prompt; the last of them predicts the first of the response.
        loss = cross_entropy(logits[:, 3:].flatten(0, 1), ids[:, 4:].flatten(), ignore_index=words.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    words.padding_side = "left"
    model.eval()
    model.generation_config = GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    Policy(model, words).save(folder)
    return folder


def _text(prompt: str, answer: str, rng: random.Random) -> str:
    if rng.random() < SLIP:
        answer = str(rng.randrange(2 * LARGEST + 1))
    aloud = f"{answer} so " if rng.random() < 0.5 else ""
    return f"{prompt} {aloud}\\boxed{{ {answer} }} {_END}"
