"""Sampling against `generate` of transformers: 128 prompts × 8 responses of the `path` base at T = 1, one thread.

    pytest benchmarks/test_sampling.py --benchmark-enable -s

Both sides are measured in response tokens, end tokens included and padding not. `test_side_by_side` alternates the two,
so that whatever else the machine does meets both, and gives the median of the ratios within a pair; it asserts nothing
about time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.ratios import note_ratios
from toy_models import Policy, get_task, load_policy, sample

GROUP_SIZE, N_PROMPTS, PAIRS = 8, 128, 30


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samplers() -> dict[str, Callable[[], int]]:
    """Each draws 1024 responses and returns how many tokens they hold."""
    policy: Policy = load_policy("path")
    task = get_task("path", policy.tokenizer)
    prompts = [list(prompt.ids) for prompt in task.prompts("train")[:N_PROMPTS]]
    repeated = torch.tensor(prompts).repeat_interleave(GROUP_SIZE, dim=0)
    generator = torch.Generator().manual_seed(0)

    def ours() -> int:
        uniforms = torch.rand(len(repeated), task.max_new_tokens, dtype=torch.float64, generator=generator)
        drawn = sample(
            policy.model,
            prompts,
            group_size=GROUP_SIZE,
            max_new_tokens=task.max_new_tokens,
            eos_id=policy.eos_id,
            pad_id=policy.pad_id,
            uniforms=uniforms,
        )
        return int(drawn.lengths.sum())

    def generate() -> int:
        # Without log-probabilities and entropies, which `sample` returns as well.
        rows = policy.model.generate(
            repeated,
            attention_mask=torch.ones_like(repeated),
            do_sample=True,
            top_k=0,
            max_new_tokens=task.max_new_tokens,
            pad_token_id=policy.pad_id,
            eos_token_id=policy.eos_id,
        )
        return int((rows[:, repeated.shape[1] :] != policy.pad_id).sum())

    return {"sample": ours, "generate": generate}


@pytest.mark.benchmark(group="1024 rollouts of the path base")
@pytest.mark.parametrize("name", ["sample", "generate"])
def test_rollouts(name: str, samplers: dict[str, Callable[[], int]], benchmark: BenchmarkFixture) -> None:
    tokens = benchmark(samplers[name])
    # Nearly every response ends by itself, after five to nine tokens.
    assert 5 * N_PROMPTS * GROUP_SIZE < tokens < 9 * N_PROMPTS * GROUP_SIZE


def test_side_by_side(samplers: dict[str, Callable[[], int]], benchmark: BenchmarkFixture) -> None:
    rates: dict[str, list[float]] = {name: [] for name in samplers}

    def interleaved() -> None:
        for _ in range(PAIRS):
            for name, run in samplers.items():
                start = time.perf_counter()
                rates[name].append(run() / (time.perf_counter() - start))

    for run in samplers.values():  # warm-up
        run()
    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    note_ratios(benchmark, rates, "generate", "tokens_per_second", rollouts=N_PROMPTS * GROUP_SIZE)
