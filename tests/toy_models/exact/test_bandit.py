"""Softmax bandits against autograd in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.toy_models.exact.enumeration import CLOSE, DRAWS, assert_frequencies, generator, mean_and_covariance
from toy_models import Bandit
from toy_models.exact.arms import draw


@pytest.mark.parametrize("arms", [1, 2, 7])
def test_scores_against_autograd(arms):
    z, w = (
        torch.randn(arms, generator=generator(), dtype=torch.float64) * 2,
        torch.randn(arms, generator=generator(1), dtype=torch.float64),
    )
    bandit = Bandit(z)
    mean, covariance = mean_and_covariance(lambda t: t.log_softmax(-1), z, w)
    torch.testing.assert_close(bandit.expected_score(w), mean, **CLOSE)
    torch.testing.assert_close(bandit.score_covariance(w), covariance, **CLOSE)


def test_bandit_batches_are_bandits_apart():
    z = torch.randn(3, 4, 5, generator=generator(), dtype=torch.float64)
    w = torch.randn(4, 5, generator=generator(1), dtype=torch.float64)
    correct = torch.rand(4, 5, generator=generator(2)) < 0.4
    whole = Bandit(z)
    for s, p in itertools.product(range(3), range(4)):
        single = Bandit(z[s, p])
        torch.testing.assert_close(whole.expected_score(w)[s, p], single.expected_score(w[p]), **CLOSE)
        torch.testing.assert_close(whole.score_covariance(w)[s, p], single.score_covariance(w[p]), **CLOSE)
        torch.testing.assert_close(whole.success(correct)[s, p], single.success(correct[p]), **CLOSE)
    assert torch.equal(whole.with_parameters(whole.parameters + 1).logits, z + 1)


def test_sampling_follows_the_distribution():
    u = torch.rand(2, DRAWS, generator=generator(), dtype=torch.float64)
    bandit = Bandit(torch.randn(2, 6, generator=generator(1), dtype=torch.float64) * 2)
    for row in range(2):
        assert_frequencies(bandit.sample(u)[row].bincount(minlength=6), bandit.log_probs()[row].exp())


def test_an_arm_without_mass_is_never_drawn():
    probs = torch.tensor([0.0, 0.5, 0.5, 0.0])
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)  # the last rounds to 1 in float32
    assert Bandit(torch.zeros(4)).sample(torch.tensor([0.0, 0.25, 0.999])).tolist() == [0, 1, 3]
    assert draw(probs, u).tolist() == [1, 2, 2]


def test_sampled_scores_are_sums_of_scores():
    g = generator()
    z = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    w = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    bandit = Bandit(z)
    arms = bandit.sample(torch.rand(2, 3, 4, generator=g, dtype=torch.float64))
    eye = torch.eye(5, dtype=torch.float64)
    slow = sum(w[..., i, None] * (eye[arms[..., i]] - z.softmax(-1)) for i in range(4))
    torch.testing.assert_close(bandit.sampled_score(arms, w), slow, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_cancel_leave_alone_what_was_not_drawn(dtype):
    """To the last bit: Adam and Lion would make a step of it. A net weight ten times its rounding is kept."""
    g = generator(8)
    w = torch.randn(50, 8, generator=g, dtype=dtype)
    w = w - w.mean(-1, keepdim=True)
    assert w.sum(-1).any()
    arms = torch.randint(3, (50, 8), generator=g)
    score = Bandit(torch.randn(50, 6, generator=g, dtype=dtype)).sampled_score(arms, w)
    assert not score[:, 3:].any()
    assert score[:, :3].any(-1).all()
    kept = w.clone()
    kept[:, 0] += 160 * torch.finfo(dtype).eps * w.abs().sum(-1)
    assert Bandit(torch.zeros(50, 6, dtype=dtype)).sampled_score(arms, kept)[:, 3:].all()


def test_expected_scores_of_arms_drawn_from_another_policy():
    """Σ_a μ(a) w(a) ∇ log π(a), with μ summed in by importance weights."""
    g = generator()
    z, u = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    w = torch.randn(3, 5, generator=g, dtype=torch.float64)
    ratio = (u.log_softmax(-1) - z.log_softmax(-1)).exp()
    torch.testing.assert_close(Bandit(z).expected_score(w, behaviour=Bandit(u)), Bandit(z).expected_score(w * ratio))


def test_bad_input():
    with pytest.raises(ValueError, match=r"logits: expected finite logits, got nan at index \(0, 1\)"):
        Bandit(torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match=r"logits: expected floating-point logits .* got torch.int64"):
        Bandit(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"probs: expected positive numbers that sum to 1 .* a sum of 0\.9"):
        Bandit.from_probs(torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match=r"probs: expected positive numbers that sum to 1 .* a smallest one of nan"):
        Bandit.from_probs(torch.tensor([0.5, torch.nan]))
    probs = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(Bandit.from_probs(probs).logits.softmax(-1), probs)
