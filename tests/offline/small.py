"""Small models, a tokenizer and rollout files for the tests of offline traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toy_models.tasks.tokenizer import word_tokenizer

WORDS = ["<pad>", "$", ":", "+", "user", "assistant", *(str(n) for n in range(23))]
VOCAB = len(WORDS)  # 29
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def make_tokenizer(*, template: bool = False) -> Any:
    tokenizer = word_tokenizer(WORDS, pad="<pad>", eos="$")
    if template:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(kind: str = "qwen3", dtype: torch.dtype = torch.float32, vocab: int = VOCAB, scale: float = 0.4) -> Any:
    """A random model with 64 positions, far from uniform."""
    import transformers as hf

    common = {"vocab_size": vocab, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if kind == "gpt2":
        config = hf.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **common)
    else:
        config = {"qwen3": hf.Qwen3Config, "llama": hf.LlamaConfig}[kind](
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
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.data.normal_(0.0, scale)
    return model.to(dtype).eval()


def rows_of(n: int = 12, group_size: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Rollouts of ragged lengths, several to a prompt; the first of each group is correct, of the last group none."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(str(int(i)) for i in torch.randint(0, 23, (count,), generator=generator))

    out = []
    for i in range(n):
        if i % group_size == 0:
            prompt = f"{words(1, 9)} :"
        out.append(
            {"prompt": prompt, "response": words(1, 20), "reward": float(i % group_size == 0 and i < n - group_size)}
        )
    return out


def write_jsonl(path: Path, rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def save(folder: Path, model: Any = None, tokenizer: Any = None) -> Path:
    """A model folder as --model takes it."""
    (model or make_model()).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder


def dense_logits(model: Any, tokenizer: Any, prompt: str, response: str) -> tuple[Tensor, Tensor]:
    """Logits (n, V) in float64 at a response, one row alone and without a cache, and its tokens."""
    p, r = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response))
    with torch.no_grad():
        logits = model.double()(input_ids=torch.tensor([p + r])).logits[0, len(p) - 1 : -1]
    return logits.double(), torch.tensor(r)
