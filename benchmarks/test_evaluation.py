"""Time of the exact evaluation: 128 test prompts of `path`, a random Qwen3 of the built-in base's size, one thread.

OMP_NUM_THREADS=1 python -m pytest benchmarks/test_evaluation.py --benchmark-enable
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from analysis.evaluation import FixedPrefixes, evaluate, solution_log_probs, success_probability
from toy_models import BASES, Policy, get_task

N_PROMPTS = 128


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe, tokenizer = BASES["path"], get_task("path").tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=recipe.hidden,
                intermediate_size=recipe.intermediate,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.heads,
                head_dim=recipe.head_dim,
                max_position_embeddings=64,
                tie_word_embeddings=True,
            )
        )
    yield Policy(model.eval(), tokenizer)
    torch.set_num_threads(threads)


def pairs() -> tuple[list[tuple[int, ...]], list[list[tuple[int, ...]]]]:
    task = get_task("path")
    prompts = [prompt.ids for prompt in task.prompts("test")[:N_PROMPTS]]
    return prompts, [task.solutions(ids) or [] for ids in prompts]


def report(benchmark: Any) -> None:
    benchmark.extra_info["prompts"] = N_PROMPTS
    if benchmark.stats is not None:
        benchmark.extra_info["ms_per_prompt"] = benchmark.stats.stats.median / N_PROMPTS * 1e3


def test_two_temperatures(benchmark: Any, policy: Policy) -> None:
    prompts, solutions = pairs()
    with torch.inference_mode():
        benchmark(solution_log_probs, policy.model, prompts, solutions, (1.0, 0.6))
    report(benchmark)


def test_exact_gradient(benchmark: Any, policy: Policy) -> None:
    prompts, solutions = pairs()

    def gradient() -> None:
        policy.model.zero_grad()
        success_probability(policy.model, prompts, solutions).mean().backward()

    benchmark.pedantic(gradient, rounds=3)
    report(benchmark)


def test_evaluate(benchmark: Any, policy: Policy) -> None:
    task = get_task("path")
    prompts = task.prompts("test")[:N_PROMPTS]
    fixed = FixedPrefixes.from_samples(policy, task, prompts, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        evaluate(
            policy,
            task,
            prompts,
            fixed=fixed,
            temperatures=(1.0, 0.6),
            samples=4,
            generator=torch.Generator().manual_seed(1),
        )

    benchmark(run)
    report(benchmark)
