"""Exact evaluation under top-k and top-p: against truncation by definition, finite differences and own samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.errors import UsageError
from analysis.evaluation import (
    FixedPrefixes,
    SamplingParams,
    curves,
    effective_solutions,
    matched,
    pass_at_k_exact,
    solution_log_probs,
    success_probability,
)
from tests.evaluation.conftest import END, gpt2, path_prompts
from tests.evaluation.test_matching import evals
from tests.evaluation.test_policy_evaluation import SumTask, generator, make_policy, run
from tests.reference.truncation_slow import distribution_of, entropy_of, log_of
from toy_models import sample

TRUNCATIONS = [{"top_k": 6}, {"top_p": 0.8}, {"top_k": 12, "top_p": 0.9}, {"top_k": 99}]


def dense(model, prompt, response, **params) -> float:
    """log q(response): one whole forward pass a token, the distribution of each step truncated by definition."""
    total = 0.0
    for t, token in enumerate(response):
        with torch.no_grad():
            z = model(input_ids=torch.tensor([[*prompt, *response[:t]]])).logits[0, -1].tolist()
        total += log_of(distribution_of(z, **params)[token])
    return total


@pytest.mark.parametrize("params", TRUNCATIONS)
def test_equals_truncated_distributions_of_each_prefix(params):
    model = gpt2()
    prompts = [[1, 2, 3], [4, 5]]
    # every first token, so that some are kept and some are not, and longer ones
    solutions = [[(a,) for a in range(40)], [(a, b, END) for a in (3, 5, 7, 21, 36) for b in (1, 36, 21)]]
    with torch.no_grad():
        found = solution_log_probs(model, prompts, solutions, (1.0, 0.6), **params)
    reached = []
    for prompt, group, values in zip(prompts, solutions, found, strict=True):
        for j, temperature in enumerate((1.0, 0.6)):
            expected = [dense(model, prompt, y, temperature=temperature, **params) for y in group]
            assert values[j].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            reached += [value > -math.inf for value in expected]
    assert any(reached)
    assert params == {"top_k": 99} or not all(reached)


@pytest.mark.parametrize("params", TRUNCATIONS)
def test_all_responses_of_a_length_sum_to_one(params):
    solutions = [(a, b) for a in range(40) for b in range(40)]
    with torch.no_grad():
        (values,) = solution_log_probs(gpt2(), [[1, 2, 3]], [solutions], (1.0, 0.3), **params)
    assert torch.allclose(values.exp().sum(-1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("params", [{"top_p": 0.97}, {"top_k": 12, "top_p": 0.9}])
def test_gradient_is_that_of_the_truncated_success(params):
    """Against a central difference along a random direction, short enough that no token enters or leaves a kept set."""
    model, step = gpt2(), 1e-5
    prompts, solutions = zip(*((p, s[::5]) for p, s in path_prompts(3, seed=4, extra=True)), strict=True)
    parameters = list(model.parameters())
    p = success_probability(model, prompts, solutions, 1.5, max_rows=50, **params)
    gradient = torch.autograd.grad(p.mean(), parameters)
    noise = torch.Generator().manual_seed(0)
    direction = [torch.randn(q.shape, generator=noise, dtype=q.dtype) for q in parameters]
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for q, d in zip(parameters, direction, strict=True):
                q.add_(d, alpha=sign * step)
            values.append(success_probability(model, prompts, solutions, 1.5, **params).mean())
    slope = float(values[0] - values[1]) / (2 * step)
    assert p.min() >= 0
    assert float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))) == pytest.approx(slope, rel=1e-5)
    full = torch.autograd.grad(success_probability(model, prompts, solutions, 1.5).mean(), parameters)
    assert any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in zip(gradient, full, strict=True))


def test_solutions_out_of_reach_have_no_gradient():
    model = gpt2()
    with torch.no_grad():
        worst = int(model(input_ids=torch.tensor([[1, 2]])).logits[0, -1].argmin())
    p = success_probability(model, [[1, 2]], [[(worst, END), (worst, 3, END)]], top_k=3)
    assert p.tolist() == [0.0]
    assert all((g == 0).all() for g in torch.autograd.grad(p.sum(), list(model.parameters())))


def test_effective_solutions_with_some_or_none_in_reach():
    inf = math.inf
    log_probs = torch.tensor([[-3.0, -inf, -3.0], [-inf, -inf, -inf], [-900.0, -900.0, -900.0]])
    assert effective_solutions(log_probs).tolist() == pytest.approx([2, 0, 3])
    assert effective_solutions(torch.tensor([math.nan, -inf])).isnan()


@pytest.mark.parametrize("params", [{"top_k": 3}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.8}])
def test_exact_pass_at_k_agrees_with_own_samples(params):
    """4000 samples a prompt, also as 1000 groups of four: c and the share of groups with a success within 4 standard
    errors of n·p and of exact Pass@4, eight numbers a truncation: a false alarm in 5e-4 of trials each."""
    policy, task, n, k = make_policy(), SumTask(), 4000, 4
    columns = run(task, policy, samples=n, temperatures=(1.3,), **params)
    uniforms = torch.rand(4 * n, 3, dtype=torch.float64, generator=generator(5))
    prompts = task.prompts("test")
    drawn = sample(
        policy.model,
        [x.ids for x in prompts],
        group_size=n,
        max_new_tokens=3,
        eos_id=policy.eos_id,
        pad_id=policy.pad_id,
        temperature=1.3,
        uniforms=uniforms,
        **params,
    )
    correct = np.array(
        [
            task.verify(prompts[i // n].ids, y[:length]).correct
            for i, (y, length) in enumerate(zip(drawn.response_ids.tolist(), drawn.lengths.tolist(), strict=True))
        ]
    )
    solved = correct.reshape(4, n // k, k).any(-1).mean(-1)
    for i in range(4):
        p = columns["p"][i]
        assert abs(columns["c"][i] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9
        exact = float(pass_at_k_exact(p, k))
        assert abs(solved[i] - exact) <= 4 * math.sqrt(exact * (1 - exact) * k / n) + 1e-9
    plain = run(task, policy, samples=0, temperatures=(1.3,))
    assert any(abs(a - b) > 0.01 for a, b in zip(columns["p"], plain["p"], strict=True))


def test_a_row_is_of_its_law_but_for_greedy_decoding():
    policy, task = make_policy(), SumTask()
    params = {"top_k": 17, "top_p": 0.9999}
    prompts = task.prompts("test")
    fixed = FixedPrefixes.from_samples(policy, task, prompts, generator=generator(7), samples=2)
    columns, plain = (run(task, policy, fixed=fixed, **chosen) for chosen in (params, {}))
    assert columns["greedy_correct"] == plain["greedy_correct"]
    assert set(columns["top_k"]) == {17}
    assert set(columns["top_p"]) == {0.9999}
    assert set(plain["top_k"]) == {0}

    def of(prefix, temperature):
        with torch.no_grad():
            return distribution_of(
                policy.model(input_ids=torch.tensor([prefix])).logits[0, -1].tolist(), temperature, **params
            )

    for row, (prompt, temperature) in enumerate(itertools.product(prompts, (1.0, 0.6))):
        distributions = [
            of((*ids, *response[:t]), temperature)
            for owner, ids, response in zip(fixed.prompt_ids, fixed.prompts, fixed.responses, strict=True)
            for t in range(len(response))
            if owner == prompt.prompt_id
        ]
        assert columns["entropy_fixed"][row] == pytest.approx(np.mean([entropy_of(q) for q in distributions]), rel=1e-9)
        tails = [float(sum(sorted(q, reverse=True)[16:])) for q in distributions]
        assert columns["tail_mass"][row] == pytest.approx(np.mean(tails), rel=1e-9, abs=1e-15)
    assert max(columns["tail_mass"]) > 0
    uniforms = torch.rand(4 * 5, 3, dtype=torch.float64, generator=generator(1))  # those of `run`
    drawn = sample(
        policy.model,
        [x.ids for x in prompts],
        group_size=5,
        max_new_tokens=3,
        eos_id=policy.eos_id,
        pad_id=policy.pad_id,
        uniforms=uniforms,
        **params,
    )
    for i, prompt in enumerate(prompts):
        entropies = [
            entropy_of(of((*prompt.ids, *drawn.response_ids[r, :t].tolist()), 1.0))
            for r in range(5 * i, 5 * i + 5)
            for t in range(int(drawn.lengths[r]))
        ]
        assert columns["entropy_own"][2 * i] == pytest.approx(np.mean(entropies), rel=1e-6)


def test_a_law_that_reaches_no_solution():
    columns = run(samples=0, top_k=1)
    assert set(columns["p"]) <= {0.0, 1.0}
    assert [n is None for n in columns["effective_solutions"]] == [p == 0 for p in columns["p"]]
    assert 0.0 in columns["p"][:6]  # of prompts that have solutions


@pytest.mark.parametrize(
    ("params", "message"),
    [({"top_k": -2}, "top_k: expected an integer ≥ 0, got -2"), ({"top_p": 1.2}, r"top_p: expected a number in \(0")],
)
def test_invalid_sampling_parameters_are_refused(params, message):
    for call in (
        lambda: solution_log_probs(gpt2(), [[1]], [[(2,)]], (1.0,), **params),
        lambda: success_probability(gpt2(), [[1]], [[(2,)]], **params),
        lambda: run(**params),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_rows_of_different_laws_are_kept_apart():
    whole, truncated = evals([0.3, 0.5, 0.7]), evals([0.4, 0.6, 0.8]).assign(top_k=20, top_p=0.9)
    both = pd.concat([whole, truncated])
    assert SamplingParams.all_in(truncated[truncated["temperature"] == 0.6]) == [SamplingParams(0.6, 20, 0.9)]
    frame = curves(both)
    assert len(frame) == 2 * len(curves(whole))
    at = frame[(frame["split"] == "test") & (frame["temperature"] == 1.0)].set_index(["top_k", "step"])["pass@1"]
    assert at.loc[0].tolist() == pytest.approx([0.3, 0.5, 0.7])
    assert at.loc[20].tolist() == pytest.approx([0.4, 0.6, 0.8])
    for params, first in (({}, 0.3), ({"top_k": 20, "top_p": 0.9}, 0.4)):
        table = matched({"a": both}, "pass@1", "step", levels=[0], **params).table
        assert table["value"][0] == pytest.approx(first)
        assert (table["top_k"][0], table["top_p"][0]) == (params.get("top_k", 0), params.get("top_p", 1.0))
    with pytest.raises(UsageError, match=r"run b were evaluated \(T = 0.6, top-k 20, top-p 0.9; .*\), got T = 1"):
        matched({"a": whole, "b": truncated}, "pass@1", "step")
