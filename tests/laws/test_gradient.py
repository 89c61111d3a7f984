"""The logit gradient against automatic differentiation and, where that fails, 400-digit arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import batch_logit_step, dense_statistics, gradient_norms, logit_gradient
from tests.laws.test_softmax import GAPS, saturated_row
from tests.reference import softmax_dense as dense
from tests.reference import softmax_mp as mp


def autograd_direction(
    logits: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor, temperature: float
) -> torch.Tensor:
    z = logits.clone().requires_grad_()
    log_prob = torch.log_softmax(z / temperature, -1).gather(-1, tokens[..., None]).squeeze(-1)
    (grad,) = torch.autograd.grad(-(weight * log_prob).sum(), z)
    return -grad


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["random", "uniform", "tied"])
def test_direction_against_autograd(kind: str, temperature: float) -> None:
    logits, tokens = dense.rows(kind)
    weight = 10 * torch.randn(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = logit_gradient(logits, tokens, weight, temperature=temperature)
    error = (direction - autograd_direction(logits, tokens, weight, temperature)).abs().amax(-1)
    assert (error <= 1e-10 * weight.abs().clamp(min=1)).all()


@pytest.mark.parametrize("gap", GAPS)
def test_saturated_direction_and_norms_against_mpmath(gap: float) -> None:
    row = saturated_row(gap)
    probs = mp.softmax(row.tolist())
    for token in (2, 0, 5):
        exact = [-3 * ((1 if v == token else 0) - p) for v, p in enumerate(probs)]
        direction = logit_gradient(row, torch.tensor(token), -3.0)
        assert all(abs(mp.ctx.mpf(float(d)) - e) <= 1e-10 * abs(e) for d, e in zip(direction, exact, strict=True))
        norms = gradient_norms(dense_statistics(row, torch.tensor(token)), -3.0)
        l1, l2 = mp.ctx.fsum(map(abs, exact)), mp.ctx.sqrt(mp.ctx.fsum(e * e for e in exact))
        assert abs(mp.ctx.mpf(float(norms.l1)) - l1) <= 1e-10 * l1
        assert abs(mp.ctx.mpf(float(norms.l2)) - l2) <= 1e-10 * l2


@pytest.mark.parametrize("kind", ["random", "uniform", "tied", "peaked"])
def test_norms_are_those_of_the_dense_direction(kind: str) -> None:
    logits, tokens = dense.rows(kind)
    weight = torch.randn(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = logit_gradient(logits, tokens, weight, temperature=0.7)
    norms = gradient_norms(dense_statistics(logits, tokens, temperature=0.7), weight, temperature=0.7)
    torch.testing.assert_close(norms.l1, direction.abs().sum(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(norms.l2, direction.norm(dim=-1), rtol=1e-12, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), st.floats(-5, 5), st.floats(-5, 5))
def test_zero_mean_score_zero_sum_and_linearity(row: list[float], w1: float, w2: float) -> None:
    vocab = len(row)
    z = torch.tensor(row, dtype=torch.float64).repeat(vocab, 1)
    score = logit_gradient(z, torch.arange(vocab), 1.0)
    assert (torch.softmax(z[0], -1) @ score).abs().max() <= 1e-14
    assert score.sum(-1).abs().max() <= 1e-14
    combined = logit_gradient(z, torch.arange(vocab), w1) + logit_gradient(z, torch.arange(vocab), w2)
    torch.testing.assert_close(logit_gradient(z, torch.arange(vocab), w1 + w2), combined, rtol=0, atol=1e-13)


def test_batch_step_is_the_sum_of_the_single_steps() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    tokens = torch.randint(7, (5, 4), generator=generator)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    singles = sum(logit_gradient(logits, tokens[:, i], weights[:, i]) for i in range(4))
    torch.testing.assert_close(
        batch_logit_step(torch.softmax(logits, -1), tokens, weights, 0.3), 0.3 * singles, rtol=0, atol=1e-15
    )


def test_batch_step_keeps_its_accuracy_in_a_saturated_context() -> None:
    row = saturated_row(40.0)
    tokens, weights = torch.tensor([2, 2]), torch.tensor([1.0, 0.5], dtype=torch.float64)
    direction = logit_gradient(row, torch.tensor(2), 1.5)
    step = batch_logit_step(torch.softmax(row, -1), tokens, weights)
    torch.testing.assert_close(step, direction, rtol=1e-12, atol=0)


def test_weights_that_sum_to_zero_leave_the_unsampled_alone() -> None:
    probs = torch.softmax(torch.arange(6, dtype=torch.float64), -1)
    step = batch_logit_step(probs, torch.tensor([0, 3, 3]), torch.tensor([1.0, -0.25, -0.75], dtype=torch.float64))
    torch.testing.assert_close(step, torch.tensor([1.0, 0, 0, -1, 0, 0], dtype=torch.float64), rtol=0, atol=1e-15)


def test_half_precision_direction_is_that_of_the_promoted_logits() -> None:
    logits, tokens = dense.rows("random", n=20)
    half = logits.bfloat16()
    direction = logit_gradient(half, tokens, -1.0)
    assert direction.dtype == torch.float32
    exact = logit_gradient(half.double(), tokens, -1.0)
    torch.testing.assert_close(direction.double(), exact, rtol=2e-6, atol=0)


def test_bad_input_is_named() -> None:
    logits, tokens = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"weight: expected one number or one for each token, .* got \(3, 1\)"):
        logit_gradient(logits, tokens, torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"weight: expected finite numbers, got nan at index 1"):
        logit_gradient(logits, tokens, torch.tensor([1.0, torch.nan, 1.0]))
    with pytest.raises(ValueError, match=r"tokens: expected ids in \[0, 4\), got 4"):
        logit_gradient(logits, torch.tensor([0, 4, 2]), 1.0)
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        logit_gradient(torch.full((3, 4), torch.nan), tokens, 1.0)
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        gradient_norms(dense_statistics(logits, tokens), 1.0, temperature=0.0)
    with pytest.raises(ValueError, match=r"weights: expected one number or one for each token, .* got \(3,\)"):
        batch_logit_step(torch.full((4,), 0.25), torch.tensor([0, 1]), torch.ones(3))
