"""Enumerated log-probabilities against teacher forcing of each response on its own."""

from __future__ import annotations

import math

import pytest
import torch

from analysis.errors import UsageError
from analysis.evaluation import effective_solutions, solution_log_probs, success_probability
from tests.evaluation.conftest import END, path_prompts, qwen3

TEMPERATURES = (1.0, 0.6, 1.7)


def teacher_forced(model, prompt, solution, temperatures):
    """log π_T(solution | prompt) at each T from one full forward pass, no cache, token by token."""
    logits = model(input_ids=torch.tensor([[*prompt, *solution]]), use_cache=False).logits[0]
    values = []
    for temperature in temperatures:
        value = torch.zeros((), dtype=torch.float64)
        for t, token in enumerate(solution):
            row = logits[len(prompt) - 1 + t] / temperature
            value = value + row[token] - torch.log(torch.exp(row - row.max()).sum()) - row.max()
        values.append(value)
    return torch.stack(values)


class Forwarded(torch.nn.Module):
    """The model, with the number of tokens that went through it and the shapes of its inputs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.tokens, self.shapes = model, 0, []

    def forward(self, input_ids, **kwargs):
        self.tokens += input_ids.numel()
        self.shapes.append(tuple(input_ids.shape))
        return self.inner(input_ids=input_ids, **kwargs)


def test_equals_teacher_forcing_of_each_response(model):
    pairs = path_prompts(5, seed=1, extra=True)
    prompts = [p for p, _ in pairs]
    solutions = [s[i::31] for i, (_, s) in enumerate(pairs)]  # a ragged subset: other branchings than the full tree's
    with torch.no_grad():
        found = solution_log_probs(model, prompts, solutions, TEMPERATURES)
        for prompt, group, values in zip(prompts, solutions, found, strict=True):
            assert values.shape == (3, len(group))
            assert values.dtype == torch.float64
            naive = torch.stack([teacher_forced(model, prompt, s, TEMPERATURES) for s in group], 1)
            assert torch.allclose(values, naive, rtol=0, atol=1e-10)


def test_all_responses_of_a_length_sum_to_one(model):
    prompt = [1, 2, 3]
    solutions = [(a, b) for a in range(40) for b in range(40)]
    with torch.no_grad():
        (values,) = solution_log_probs(model, [prompt], [solutions], (1.0, 0.3))
    assert torch.allclose(values.exp().sum(-1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_shuffled_orders_and_small_chunks_change_nothing(model):
    pairs = path_prompts(4, seed=2, extra=True)
    prompts, solutions = [p for p, _ in pairs], [s[::9] for _, s in pairs]
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(s), generator=generator) for s in solutions]
    shuffled = [[s[i] for i in order] for s, order in zip(solutions, orders, strict=True)]
    with torch.no_grad():
        whole = solution_log_probs(model, prompts, solutions, TEMPERATURES)
        parts = solution_log_probs(model, prompts, shuffled, TEMPERATURES, max_rows=17)
    for a, b, order in zip(whole, parts, orders, strict=True):
        assert torch.allclose(a[:, order], b, rtol=0, atol=1e-11)


def test_each_prefix_is_forwarded_once_and_last_tokens_never():
    pairs = path_prompts(4, seed=3)
    prompts, solutions = [p for p, _ in pairs], [s for _, s in pairs]
    prefixes = {(i, s[:d]) for i, group in enumerate(solutions) for s in group for d in range(1, len(s))}
    counted = Forwarded(qwen3())
    with torch.no_grad():
        solution_log_probs(counted, prompts, solutions, (1.0,))
    assert counted.tokens == sum(map(len, prompts)) + len(prefixes)
    assert {width for _, width in counted.shapes[1:]} == {2}  # d s pairs: the sum is forced by the jump


def test_max_rows_bounds_every_forward_pass():
    pairs = path_prompts(4, seed=3)
    counted = Forwarded(qwen3())
    with torch.no_grad():
        solution_log_probs(counted, [p for p, _ in pairs], [s[::8] for _, s in pairs], (1.0,), max_rows=30)
    assert max(rows for rows, _ in counted.shapes) <= 30


def test_a_response_may_be_a_prefix_of_another_and_of_length_one(model):
    solutions = [(END,), (3, END), (3,), (3, 4, 5, 6), (3, 4, 5, 7), (8, 9, 9)]
    with torch.no_grad():
        (values,) = solution_log_probs(model, [[1, 2]], [solutions], (1.0,))
        naive = torch.cat([teacher_forced(model, [1, 2], s, [1.0]) for s in solutions])
    assert torch.allclose(values[0], naive, rtol=0, atol=1e-11)


def test_prompts_without_solutions():
    with torch.no_grad():
        values = solution_log_probs(qwen3(), [[1], [2, 3]], [[], [(4, END)]], (1.0, 0.6))
        p = success_probability(qwen3(), [[1], [2, 3]], [[], [(4, END)]])
    assert [tuple(v.shape) for v in values] == [(2, 0), (2, 1)]
    assert p[0] == 0
    assert p[1] > 0


def gradient_error(found, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def gradient_tolerance(model):
    """Qwen3's RMSNorm computes in float32 whatever the model's dtype; GPT-2's layer norm does not."""
    return 1e-6 if "Qwen3" in type(model).__name__ else 1e-12


def test_success_probability_and_its_gradient(model):
    pairs = path_prompts(3, seed=4, extra=True)
    prompts, solutions = [p for p, _ in pairs], [s[::61] for _, s in pairs]
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    parameters = list(model.parameters())
    naive = torch.stack(
        [
            sum(teacher_forced(model, p, s, [0.8]).exp().squeeze() for s in group)
            for p, group in zip(prompts, solutions, strict=True)
        ]
    )
    expected = torch.autograd.grad((weight * naive.log()).sum(), parameters)  # log: every prompt counts
    for max_rows in (4096, 5):
        p = success_probability(model, prompts, solutions, 0.8, max_rows=max_rows)
        assert torch.allclose(p, naive, rtol=1e-10, atol=0)
        found = torch.autograd.grad((weight * p.log()).sum(), parameters)
        assert gradient_error(found, expected) < gradient_tolerance(model)


def test_log_probs_are_differentiable(model):
    (values,) = solution_log_probs(model, [[1, 2]], [[(3, 4), (3, 5)]], (1.0, 0.6))
    naive = torch.stack([teacher_forced(model, [1, 2], s, (1.0, 0.6)) for s in [(3, 4), (3, 5)]], 1)
    parameters = list(model.parameters())
    found = torch.autograd.grad(values[1].sum() - values[0, 0], parameters)
    expected = torch.autograd.grad(naive[1].sum() - naive[0, 0], parameters)
    assert gradient_error(found, expected) < gradient_tolerance(model)


def test_float32_and_bfloat16_are_within_their_own_rounding():
    pairs = path_prompts(3, seed=5)
    prompts, solutions = [p for p, _ in pairs], [s[::9] for _, s in pairs]
    with torch.no_grad():
        exact = torch.cat(solution_log_probs(qwen3(), prompts, solutions, TEMPERATURES), 1)
        single = torch.cat(solution_log_probs(qwen3().float(), prompts, solutions, TEMPERATURES), 1)
        half = torch.cat(solution_log_probs(qwen3().bfloat16(), prompts, solutions, TEMPERATURES), 1)
    # nine tokens whose logits (|z| up to 10) each carry a few ulps: 2⁻²⁴ and 2⁻⁸, over T = 0.6
    assert (single - exact).abs().max() < 9 * 10 * 4 * 2**-24 / 0.6
    assert (half - exact).abs().max() < 9 * 10 * 4 * 2**-8 / 0.6
    assert single.dtype == half.dtype == torch.float64


@pytest.mark.parametrize("n", [1, 7, 250])
def test_effective_solutions(n):
    assert math.isclose(effective_solutions(torch.full((n,), -800.0, dtype=torch.float64)), n, rel_tol=1e-12)
    q = torch.arange(1, n + 1, dtype=torch.float64)
    q /= q.sum()
    naive = math.exp(-sum(float(x) * math.log(float(x)) for x in q))
    assert math.isclose(effective_solutions(q.log() - 3), naive, rel_tol=1e-12)


def test_effective_solutions_without_mass_on_some():
    assert effective_solutions(torch.tensor([0.0, -math.inf])) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], [], (1.0,)), "one list for each of 1 prompts, got 0"),
        (([[1]], [[(2,)]], (0.0,)), "temperatures: expected positive numbers"),
        (([[1]], [[(2,)]], ()), "temperatures: expected positive numbers"),
        (([[]], [[(2,)]], (1.0,)), "prompts: expected at least one token, got none in prompt 0"),
        (([[1]], [[(2,), ()]], (1.0,)), "got an empty one for prompt 0"),
        (([[1]], [[(2, 3), (4,), (2, 3)]], (1.0,)), r"distinct responses, got \[2, 3\] twice for prompt 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(UsageError, match=message):
        solution_log_probs(qwen3(), *arguments)


def test_bad_max_rows_and_empty_axis():
    with pytest.raises(UsageError, match="max_rows: expected at least 1, got 0"):
        solution_log_probs(qwen3(), [[1]], [[(2,)]], (1.0,), max_rows=0)
    with pytest.raises(UsageError, match="at least one solution on the last axis"):
        effective_solutions(torch.zeros(2, 0))
