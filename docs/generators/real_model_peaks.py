"""Measured on a real model and on a random one: peaks of memory beside their estimates, and what bfloat16 hides.

The numbers of docs/how_to/train_a_real_model.md. Each peak is the resident size of a process that makes one step of a
recipe on a CPU, with random rewards, so that both signs have gradients.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from analysis.recipes import Recipe
from analysis.recipes.memory import estimated_memory
from analysis.recipes.model_shape import model_shape
from analysis.training.loop import train

__all__ = ["measure"]

_RANDOM: dict[str, Any] = {"vocab_size": 8000, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8}
_RANDOM |= {"num_key_value_heads": 4, "intermediate_size": 1536, "max_position_embeddings": 256}
_STEP: dict[str, Any] = {
    "grid": "unset",
    "steps": 1,
    "device": "cpu",
    "task.name": "file",
    "task.train_prompts": 64,
    "task.false_positive": 0.5,
    "objective.name": "grpo",
    "optimizer.lr": 1e-6,
    "update.rows": "keep",
    "update.minibatches": "unset",
    "rollout.group_size": 4,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "eval.samples": 1,
    "record.tokens": 0.125,
    "record.contexts": 0,
    "record.checkpoint": "none",
}
# Name of the settings, whether they are of the random model, tokens of prompts and responses, prompts of a step.
_CASES: list[tuple[str, bool, int, int, int, dict[str, Any]]] = [
    (
        "passes of 600 tokens, gradient checkpointing",
        True,
        24,
        40,
        8,
        {"update.micro_batch_tokens": 600, "update.gradient_checkpointing": True},
    ),
    (
        "passes of 600 tokens, contexts with a JVP by source",
        True,
        24,
        40,
        8,
        {"update.micro_batch_tokens": 600, "record.contexts": 32},
    ),
    ("passes of 300 tokens", False, 29, 8, 4, {"update.micro_batch_tokens": 300}),
]
_TOP = 200  # tokens whose log-probs are compared
_RATE = 1e-6


def measure(folder: Path) -> dict[str, Any]:
    """Peaks and estimates of each case, what an update changes as bfloat16 sees it, and the rate of a core.

    Args:
        folder: a Hugging Face folder of SmolLM2-135M-Instruct.
    """
    peaks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for case, random, prompt, response, prompts, changes in _CASES:
            print(f"{case} …", file=sys.stderr)
            model = _random_model(Path(name) / "model") if random else folder
            data = Path(name) / "prompts.jsonl"
            rows = [{"prompt": _prompt(i, prompt, random=random), "answer": "a"} for i in range(200)]
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
            settings = _STEP | {"policy.base": str(model), "task.train_file": str(data), "rollout.prompts": prompts}
            settings |= {"rollout.max_new_tokens": response} | changes
            (run,) = Recipe.load("tiny").set(**settings).expand()
            shape = model_shape(model)
            assert shape is not None
            estimate = estimated_memory(run.config, shape, prompt, response).peak
            peak = _peak(settings, Path(name) / f"run{len(peaks)}")
            peaks.append({"weights": shape.parameters, "settings": case, "estimate": estimate, "measured": peak})
    print("bfloat16 …", file=sys.stderr)
    return {"peaks": peaks, "bfloat16": _bfloat16(folder), "core_flops": _core_flops(folder)}


def _prompt(number: int, tokens: int, *, random: bool) -> str:
    if random:  # a token of the tokenizer of bytes is a character
        return f"What is {number} plus {number + 1}? ".ljust(tokens, ".")
    return f"12 + 15 = 27\n31 + 24 = 55\n{10 + number % 80} + {10 + 7 * number % 80} ="


def _random_model(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if not folder.exists():
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate([*alphabet, "<end>"])}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(**_RANDOM, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _peak(settings: dict[str, Any], folder: Path) -> int:
    """Largest resident size, in bytes, of a process that makes the run."""
    command = [sys.executable, "-m", __name__, json.dumps(settings), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


def _model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def _bfloat16(folder: Path) -> dict[str, float]:
    """The change of log-probs by a first step of AdamW, in float32 and as bfloat16 sees it, root mean squares in nats.

    The weights are moved at random within a rounding step of bfloat16, since those of a quantised file lie on a grid.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = torch.tensor([tokenizer(_prompt(i, 0, random=False)).input_ids for i in (31, 42)])
    token = tokenizer(" 7").input_ids[-1]

    def log_probs(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(ids, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)

    before = _model(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(1 + 2**-8 * (torch.rand_like(parameter) - 0.5))
    after = copy.deepcopy(before)
    after(ids, logits_to_keep=1).logits[:, -1].log_softmax(-1)[:, token].mean().neg().backward()
    with torch.no_grad():
        for parameter in after.parameters():
            parameter -= _RATE * parameter.grad.sign()  # which the first step of AdamW is
            parameter.grad = None
    exact, start = log_probs(after) - log_probs(before), log_probs(before)
    before, after = before.bfloat16(), after.bfloat16()
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    changed = sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    low = log_probs(before)
    seen, top = log_probs(after) - low, start.topk(_TOP, -1).indices

    def size(values: torch.Tensor) -> float:
        return values.gather(-1, top).square().mean().sqrt().item()

    return {"change": size(exact), "error": size(seen - exact), "forward": size(low - start), "changed": changed}


def _core_flops(folder: Path) -> float:
    """Operations a second of processor time in forward and backward passes on one thread, in float32."""
    model, shape, rows, row = _model(folder), model_shape(folder), 8, 34
    assert shape is not None
    torch.set_num_threads(1)
    ids = torch.arange(rows * row).view(rows, row)
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        model(ids, use_cache=False, logits_to_keep=row).logits.logsumexp(-1).sum().backward()
        taken = time.process_time() - start
        forward = rows * row * (2.0 * shape.body + 2.0 * shape.vocabulary * shape.width)
        best = max(best, 3 * forward / taken)
    return best


if __name__ == "__main__":
    import resource

    (planned,) = Recipe.load("tiny").set(**json.loads(sys.argv[1])).expand()
    train(planned.config, sys.argv[2], run_id="r", label="L")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
