"""What `attach` adds to a training step of a Qwen3 with d 896 and a vocabulary of 151,936: ratios of CPU time.

    every token       log π, 1 − π, H, Σπ², Σπ² log π, ‖e_y − π‖, weight and residual of every token     bar: 1.10
    default           the same of the default share of the prompts
    with top 20       of every token, with the 20 most probable tokens and the rank

A step is forward pass, clipped loss on the log-probs of all completion tokens, backward pass and AdamW, on 4 prompts ×
128 tokens. The kinds are interleaved in one process with one thread; each ratio is the median over the repeats of
ratios within a repeat. LAYERS (4) and REPEATS (5) in the environment change the size: the fewer layers, the larger the
share of the head, on which alone the cost depends.
"""

from __future__ import annotations

import contextlib
import os
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import analysis
from analysis import RecordSpec
from benchmarks.ratios import note_ratios

LAYERS, REPEATS = int(os.environ.get("LAYERS", "4")), int(os.environ.get("REPEATS", "5"))
KINDS: dict[str, RecordSpec | None] = {
    "nothing": None,
    "every token": RecordSpec(tokens=1),
    "default": RecordSpec(),
    "with top 20": RecordSpec(tokens=1, top_k=20, rank=True),
}


def make_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=LAYERS,
            num_attention_heads=14,
            num_key_value_heads=2,
            head_dim=64,
            tie_word_embeddings=True,
        )
    ).train()


def test_overhead_of_attach(benchmark):
    torch.set_num_threads(1)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    ids = torch.randint(151_936, (4, 129))
    advantages = torch.tensor([[1.0], [-1.0], [0.5], [-0.5]])
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def once(kind: str) -> None:
        spec = KINDS[kind]
        with contextlib.nullcontext() if spec is None else analysis.attach(model, record=spec) as trace:
            start = time.process_time()
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            log_probs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            ratio = torch.exp(log_probs - log_probs.detach())
            loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if trace is not None:
                trace.step(rewards=[1.0, 0.0, 1.0, 0.0])
            seconds[kind].append(time.process_time() - start)

    def interleaved() -> None:
        for _ in range(REPEATS):
            for kind in KINDS:
                once(kind)

    for kind in KINDS:
        once(kind)
        seconds[kind].clear()
    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    note_ratios(benchmark, seconds, "nothing", "seconds", layers=LAYERS)
