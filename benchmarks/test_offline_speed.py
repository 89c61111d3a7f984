"""What recorded rollouts cost beside the bare forward pass: ratios of CPU time on one thread, interleaved.

bare  the model over the same batches, logits of every position in float32, log-softmax, the log-prob of each token
full  a trace of them with all columns and the 8 most probable tokens, written into a run folder
core  the same without ranks, buckets and top tokens

The model is SmolLM2-135M-Instruct where `make smollm2` has got it, else one of its shape with random weights. Responses
are about 200 tokens of this project's README, four to a prompt. What a trace does once (hash of the weights, summary)
is left out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.offline.forward import Forward, batches_of
from analysis.offline.reading import read_rollouts
from analysis.offline.rounds import trace_rounds
from analysis.offline.tokenization import Encoded, ModelLimits, encode_rollouts
from analysis.offline.trace_settings import TraceSettings
from analysis.probes.output_heads import find_head
from analysis.records import Ranks, RunWriter
from benchmarks.ratios import note_ratios
from toy_models import load_policy
from toy_models.tasks.tokenizer import word_tokenizer

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PASSES, GROUPS, RESPONSES, PROMPT, RESPONSE, BUDGET, VOCAB = 3, 2, 4, 70, 200, 2048, 49_152


def test_tracing_beside_the_bare_forward_pass(benchmark, tmp_path):
    torch.set_num_threads(1)
    model, tokenizer, ids = _model()
    rows = _rows(ids)
    file, limits = read_rollouts(rows), ModelLimits.of(model)
    settings = {name: TraceSettings(file.columns, record_columns=name) for name in ("full", "core")}
    items = encode_rollouts(file.rollouts, tokenizer, limits, settings["full"], file.columns, file.bad)
    seconds: dict[str, list[float]] = {"bare": [], "full": [], "core": []}
    bytes_per_token: dict[str, float] = {}

    def interleaved() -> None:
        for turn in range(PASSES):
            for way, row in seconds.items():
                start = time.process_time()
                if way == "bare":
                    _bare(model, items)
                else:
                    folder = tmp_path / f"{way}{turn}"
                    _traced(model, items, settings[way], folder)
                    size = sum(path.stat().st_size for path in (folder / "tokens").iterdir())
                    bytes_per_token[way] = size / sum(len(item.response) for item in items)
                row.append(time.process_time() - start)

    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    tokens = sum(len(item.response) for item in items)
    sizes = {"tokens": tokens, "positions": sum(item.length for item in items), "vocab": limits.vocab}
    pretrained = WEIGHTS.is_file()
    note_ratios(benchmark, seconds, "bare", "seconds", **sizes, bytes=bytes_per_token, pretrained=pretrained)


def _model() -> tuple[Any, Any, np.ndarray]:
    """Model, tokenizer, and enough token ids of a text."""
    needed = GROUPS * (PROMPT + RESPONSES * RESPONSE)
    if WEIGHTS.is_file():
        policy = load_policy(WEIGHTS)
        ids = policy.tokenizer.encode((ROOT / "README.md").read_text(encoding="utf-8"), add_special_tokens=False)
        return policy.model, policy.tokenizer, np.resize(np.array(ids), needed)
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    words = ["<pad>", "$", *(f"w{i}" for i in range(VOCAB - 2))]
    ids = np.random.default_rng(0).integers(2, VOCAB, needed)
    return transformers.LlamaForCausalLM(config).eval(), word_tokenizer(words, pad="<pad>", eos="$"), ids


def _rows(ids: np.ndarray) -> list[dict[str, Any]]:
    """Groups of responses whose lengths are between half and one and a half of the mean."""
    generator, at, rows = np.random.default_rng(0), 0, []
    for group in range(GROUPS):
        prompt = ids[at : at + PROMPT].tolist()
        at += PROMPT
        lengths = generator.integers(RESPONSE // 2, 3 * RESPONSE // 2, RESPONSES - 1)
        for length in [*lengths, max(1, RESPONSES * RESPONSE - int(lengths.sum()))]:
            response = np.resize(np.roll(ids, -at), length).tolist()
            at += int(length)
            rows.append(
                {"prompt_ids": prompt, "response_ids": response, "reward": float(len(rows) % 2), "group": group}
            )
    return rows


def _bare(model: Any, items: list[Encoded]) -> None:
    for batch in batches_of(items, BUDGET):
        width = max(item.length for item in batch)
        ids, targets = np.zeros((2, len(batch), width), dtype=np.int64)
        for row, item in enumerate(batch):
            tokens = np.concatenate([item.prompt, item.response])
            ids[row, : item.length], targets[row, : item.length] = tokens[:-1], tokens[1:]
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits.float()
            logits.log_softmax(-1).gather(-1, torch.from_numpy(targets)[..., None])


def _traced(model: Any, items: list[Encoded], settings: TraceSettings, folder: Path) -> None:
    fields = dict.fromkeys(("recipe", "hash", "seed")) | {"run_id": "a", "label": "a", "engine": "offline"}
    writer = RunWriter(folder, run_json=fields | {"temperature": 1.0})
    forward = Forward(model, find_head(model), settings, BUDGET)
    trace_rounds(writer, Ranks(), {"notes": []}, forward, items, settings, None, quiet=True)
