"""Log-linear policies against autograd in float64."""

from __future__ import annotations

import pytest
import torch

from tests.toy_models.exact.enumeration import CLOSE, generator, mean_and_covariance
from toy_models import Bandit, LogLinear


def test_scores_against_autograd():
    features = torch.randn(4, 5, 3, generator=generator(), dtype=torch.float64)
    theta = torch.randn(3, generator=generator(1), dtype=torch.float64)
    w = torch.randn(4, 5, generator=generator(2), dtype=torch.float64)
    policy = LogLinear(features, theta)

    def log_probs(t):  # of a prompt drawn uniformly and its arm
        return (features @ t).log_softmax(-1) - torch.log(torch.tensor(4.0, dtype=torch.float64))

    mean, covariance = mean_and_covariance(log_probs, theta, w)
    torch.testing.assert_close(policy.expected_score(w), mean, **CLOSE)
    torch.testing.assert_close(policy.score_covariance(w), covariance, **CLOSE)
    seeds = LogLinear(features, torch.stack([theta, 2 * theta]))
    torch.testing.assert_close(seeds.expected_score(w)[0], mean, **CLOSE)
    torch.testing.assert_close(seeds.score_covariance(w)[0], covariance, **CLOSE)


def test_the_kernel_is_what_one_prompt_does_to_another():
    features = torch.randn(2, 3, 4, generator=generator(), dtype=torch.float64)
    policy = LogLinear(features, torch.zeros(4, dtype=torch.float64))
    only_first = torch.tensor([[1.0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    step = 1e-3 * policy.expected_score(only_first)
    moved = policy.with_parameters(policy.parameters + step).logits - policy.logits
    direction = Bandit(policy.logits).expected_score(only_first) / 2  # a mean over two prompts
    torch.testing.assert_close(moved, 1e-3 * torch.einsum("paqb,qb->pa", policy.kernel(), direction), **CLOSE)
    assert moved[1].abs().max() > 0


def test_sampled_scores_are_sums_of_scores():
    g = generator()
    w = torch.randn(3, 4, generator=g, dtype=torch.float64)
    policy = LogLinear(torch.randn(3, 5, 2, generator=g, dtype=torch.float64), torch.randn(2, generator=g).double())
    arms = policy.sample(torch.rand(3, 4, generator=g, dtype=torch.float64))
    theta = policy.theta.clone().requires_grad_()
    chosen = policy.with_parameters(theta).log_probs().gather(-1, arms)
    (expected,) = torch.autograd.grad((w * chosen).sum() / 3, theta)
    torch.testing.assert_close(policy.sampled_score(arms, w), expected, **CLOSE)


def test_expected_scores_of_arms_drawn_from_another_policy():
    """Σ_a μ(a) w(a) ∇ log π(a), with μ summed in by importance weights."""
    g = generator()
    w = torch.randn(3, 5, generator=g, dtype=torch.float64)
    features = torch.randn(3, 5, 2, generator=g, dtype=torch.float64)
    a, b = (LogLinear(features, torch.randn(2, generator=g, dtype=torch.float64)) for _ in range(2))
    ratio = (b.log_probs() - a.log_probs()).exp()
    torch.testing.assert_close(a.expected_score(w, behaviour=b), a.expected_score(w * ratio), **CLOSE)


def test_bad_input():
    with pytest.raises(ValueError, match=r"theta: expected \(…, F\) for features \(P, A, F\), got \(2,\)"):
        LogLinear(torch.zeros(2, 3, 4), torch.zeros(2))
