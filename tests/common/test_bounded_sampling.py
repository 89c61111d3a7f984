"""Sampling in parts draws the responses of one batch, and never holds more tokens than allowed."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from analysis.common.bounded_sampling import bounded_sample
from tests.training.naive_update import VOCAB, random_policy
from toy_models import sample

PROMPTS = [(3, 4, 5), (6,), (7, 8), (9, 10, 11, 12), (13, 5)]
LONGEST = 6


def drawn(max_tokens: int | None, group_size: int = 3, temperature: float = 1.0):
    policy = random_policy()
    widths: list[tuple[int, int]] = []
    policy.model.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    uniforms = torch.rand(
        len(PROMPTS) * group_size, LONGEST, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    settings = {
        "group_size": group_size,
        "max_new_tokens": LONGEST,
        "eos_id": [1, 2],
        "pad_id": 0,
        "uniforms": uniforms,
    }
    settings |= {"temperature": temperature, "top_k": VOCAB - 2}
    whole = sample(policy.model, PROMPTS, **settings)
    widths.clear()
    return whole, bounded_sample(policy.model, PROMPTS, max_tokens=max_tokens, **settings), widths


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("max_tokens", [1, 20, 35, 60, 10_000, None])
def test_the_responses_are_those_of_one_batch(max_tokens: int | None, temperature: float) -> None:
    whole, parts, _ = drawn(max_tokens, temperature=temperature)
    for item in fields(whole):
        expected, got = getattr(whole, item.name), getattr(parts, item.name)
        assert got.dtype == expected.dtype, item.name
        # float64 throughout; attention over another padding adds in another order
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12, msg=item.name)


@pytest.mark.parametrize("max_tokens", [20, 35, 60])
def test_a_part_is_within_the_bound(max_tokens: int) -> None:
    _, _, widths = drawn(max_tokens)
    responses = max(rows for rows, columns in widths if columns == 1)
    assert sum(columns > 1 for _, columns in widths) > 1  # prompts went through in parts
    assert responses * (min(map(len, PROMPTS)) + LONGEST) <= max(max_tokens, LONGEST + max(map(len, PROMPTS)))
