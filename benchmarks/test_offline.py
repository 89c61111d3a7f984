"""What the statistics of recorded rollouts cost beside the product with the head: ratios of CPU time, interleaved.

hidden    `token_statistics` from hidden states, top-8 and rank: without rank buckets
top-1024  the same with the 1024 most probable tokens, from which the buckets up to 1024 would follow
measure   what an offline trace takes: the logits of some rows at a time, read twice
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from analysis.offline.response_statistics import measure
from analysis.token_stats import token_statistics
from benchmarks.ratios import note_ratios

REPEATS = 5


@pytest.mark.parametrize(("rows", "width", "vocab"), [(220, 896, 151_936), (220, 256, 151_936), (4096, 128, 4096)])
def test_measure_beside_the_product(benchmark, rows, width, vocab):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * 3 / width**0.5
    tokens = torch.randint(0, vocab, (rows,), generator=generator)
    head = SimpleNamespace(weight=lambda: weight, bias=lambda: None, softcap=None, logit_scale=1.0)
    some = max(1, (1 << 24) // vocab)
    kinds = {
        "product": lambda: [hidden[i : i + some] @ weight.T for i in range(0, rows, some)],
        "hidden": lambda: token_statistics(hidden=hidden, head=weight, tokens=tokens, top_k=8, rank=True),
        "top-1024": lambda: token_statistics(hidden=hidden, head=weight, tokens=tokens, top_k=1024, rank=True),
        "measure": lambda: measure(hidden, tokens, head, temperature=1.0, top_k=8),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}

    def interleaved():
        for _ in range(REPEATS):
            for kind, run in kinds.items():
                start = time.process_time()
                run()
                seconds[kind].append(time.process_time() - start)

    kinds["measure"]()  # warm-up
    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    note_ratios(benchmark, seconds, "product", "seconds", rows=rows)
