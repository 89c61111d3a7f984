"""What holds for every exact policy: one expected gradient of PSR and NSR, Pass@k, and errors."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_models.exact.enumeration import generator
from toy_models import Bandit, LogLinear, Tree, tree_leaves

TREES = [(2, 4), (3, 3), (4, 2), (5, 1)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(TREES), st.floats(0.1, 20))
def test_psr_and_nsr_have_one_expected_gradient(seed, shape, scale):
    """E[r s] = E[−(1−r) s] = ∇p, since E[s] = 0; on every toy, at any logits."""
    g = generator(seed)
    tree = Tree.random(*shape, scale=scale, generator=g)
    r = (torch.rand(tree_leaves(*shape), generator=g) < 0.5).double()
    theta = tree.parameters.clone().requires_grad_()
    (grad,) = torch.autograd.grad(tree.with_parameters(theta).success(r.bool()), theta)
    torch.testing.assert_close(tree.expected_score(r), grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tree.expected_score(r - 1), grad, rtol=1e-9, atol=1e-12)
    bandit = Bandit(scale * torch.randn(4, 6, generator=g, dtype=torch.float64))
    r = (torch.rand(4, 6, generator=g) < 0.5).double()
    torch.testing.assert_close(bandit.expected_score(r), bandit.expected_score(r - 1), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_over_every_tuple_of_responses(k):
    """The probabilities of all k-tuples that hold a correct response, added up."""
    g = generator(4)
    features = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    for policy in (
        Bandit(torch.randn(2, 5, generator=g, dtype=torch.float64)),
        LogLinear(features, torch.randn(3, generator=g, dtype=torch.float64)),
        Tree.random(3, 2, batch=(2,), generator=g),
    ):
        probs = policy.log_probs().exp()
        correct = torch.rand(probs.shape, generator=g) < 0.4
        correct[0] = False
        correct[1, 0] = True
        values = policy.pass_at_k(correct, k)
        for distribution, right, value in zip(probs.tolist(), correct.tolist(), values.tolist(), strict=True):
            tuples = itertools.product(range(len(distribution)), repeat=k)
            total = sum(math.prod(distribution[y] for y in drawn) for drawn in tuples if any(right[y] for y in drawn))
            assert value == pytest.approx(total, abs=1e-14)
    assert Bandit(torch.zeros(3)).pass_at_k(torch.tensor([True] * 3), 2) == 1
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match="k: expected an integer ≥ 1, got"):
            Bandit(torch.zeros(3)).pass_at_k(torch.tensor([True] * 3), bad)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["normal", "ties", "one-hot"]),
    st.integers(0, 10**6),
)
def test_any_shape_dtype_and_distribution_of_arms(batch, arms, dtype, kind, seed):
    """Ties, a single arm, an arm with all the mass: distributions sum to 1, scores to 0, drawn arms are possible."""
    g = generator(seed)
    z = torch.randn(*batch, arms, generator=g, dtype=dtype)
    if kind == "ties":
        z = torch.zeros_like(z)
    elif kind == "one-hot":
        z[..., 0] = 300.0
    bandit = Bandit(z)
    log_linear = LogLinear(
        torch.eye(arms, dtype=dtype).expand(1, arms, arms), z
    )  # the same distribution, of one prompt
    w = torch.randn(*batch, arms, generator=g, dtype=dtype)
    correct = torch.rand(*batch, arms, generator=g) < 0.5
    u = torch.rand(*batch, 4, generator=g, dtype=torch.float64)
    eps = 30 * arms * torch.finfo(dtype).eps
    for policy, at in ((bandit, lambda x: x), (log_linear, lambda x: x.unsqueeze(-2))):
        distribution, score = policy.probs(), policy.expected_score(at(w))
        assert distribution.dtype == score.dtype == policy.log_probs().dtype == dtype
        assert (distribution.sum(-1) - 1).abs().max() <= eps
        assert score.shape == z.shape
        assert score.sum(-1).abs().max() <= eps * (1 + w.abs().max())
        if kind == "one-hot" or arms == 1:
            assert score.abs().max() <= eps * (1 + w.abs().max())
        p = policy.success(at(correct))
        assert ((p >= 0) & (p <= 1 + eps)).all()
        drawn = policy.sample(at(u))
        assert drawn.shape == at(u).shape
        assert (distribution.gather(-1, drawn) > 0).all()
        covariance = policy.score_covariance(at(w))
        assert covariance.dtype == dtype
        assert torch.isfinite(covariance).all()
        assert torch.diagonal(covariance, dim1=-2, dim2=-1).min() >= -eps * (1 + w.square().max())


@pytest.mark.parametrize("toy", ["bandit", "log-linear", "tree"])
def test_masks_weights_and_uniforms_that_will_not_do(toy):
    policy, n, u = {
        "bandit": lambda: (Bandit(torch.zeros(2, 3, 7)), 7, (2, 3, 4)),
        "log-linear": lambda: (LogLinear(torch.zeros(3, 7, 5), torch.zeros(2, 5)), 7, (2, 3, 4)),
        "tree": lambda: (Tree.random(3, 2, batch=(2, 3), generator=generator()), 7, (2, 3, 4, 2)),
    }[toy]()
    good = torch.ones(n, dtype=torch.bool)
    shapes = r"expected a shape that broadcasts to the responses \(2, 3, 7\), got"
    for call, message in (
        (lambda: policy.success(good[:5]), rf"correct: {shapes} \(5,\)"),
        (lambda: policy.success(good.expand(4, 2, 3, n)), rf"correct: {shapes} \(4, 2, 3, 7\)"),
        (lambda: policy.success(good.double()), r"correct: expected a bool mask, got torch.float64"),
        (lambda: policy.pass_at_k(good[:5], 2), rf"correct: {shapes}"),
        (lambda: policy.expected_score(torch.ones(3)), rf"weights: {shapes} \(3,\)"),
        (lambda: policy.score_covariance(torch.ones(3)), rf"weights: {shapes} \(3,\)"),
        (lambda: policy.expected_score(torch.where(good, torch.inf, 0.0)), r"weights: .* got inf at index \(0,\)"),
        (lambda: policy.sample(torch.full(u, 1.0)), r"uniforms: expected numbers in \[0, 1\), got 1 at index \(0,"),
        (lambda: policy.sample(torch.full(u, -0.5)), r"uniforms: expected numbers in \[0, 1\), got -0.5 at"),
        (lambda: policy.sample(torch.full(u, torch.nan)), r"uniforms: expected numbers in \[0, 1\), got nan at"),
        (lambda: policy.sample(torch.zeros(u[1:])), r"uniforms: expected batch axes \(2, 3\) before the draws"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if toy == "tree":
        with pytest.raises(ValueError, match="uniforms: expected one for each of 2 positions on the last axis"):
            policy.sample(torch.zeros(2, 3, 4, 3))
