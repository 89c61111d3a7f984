"""Trees against every response written out, with autograd in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_models.exact.enumeration import CLOSE, DRAWS, assert_frequencies, generator, mean_and_covariance
from toy_models import Tree, tree_leaves

TREES = [(2, 1), (2, 4), (3, 3), (4, 2), (5, 1)]


@pytest.mark.parametrize(("vocab", "depth"), TREES)
def test_scores_against_every_response_written_out(vocab, depth):
    tree = Tree.random(vocab, depth, generator=generator())
    responses = tree.enumerate()
    assert len(responses) == len(set(responses)) == tree_leaves(vocab, depth)
    assert all(0 not in y[:-1] and (y[-1] == 0 or len(y) == depth) for y in responses)
    assert tree.lengths().tolist() == [len(y) for y in responses]

    contexts = [{c: i for i, c in enumerate(itertools.product(range(1, vocab), repeat=t))} for t in range(depth)]

    def token_log_probs(parameters):
        distributions = [level.log_softmax(-1) for level in tree.with_parameters(parameters).levels]
        return [[distributions[t][contexts[t][y[:t]], y[t]] for t in range(len(y))] for y in responses]

    def log_probs(parameters):
        return torch.stack([torch.stack(row).sum() for row in token_log_probs(parameters)])

    torch.testing.assert_close(tree.log_probs(), log_probs(tree.parameters), **CLOSE)
    assert tree.log_probs().exp().sum().item() == pytest.approx(1, abs=1e-12)
    w = torch.randn(len(responses), generator=generator(1), dtype=torch.float64)
    mean, covariance = mean_and_covariance(log_probs, tree.parameters, w)
    torch.testing.assert_close(tree.expected_score(w), mean, **CLOSE)
    torch.testing.assert_close(tree.score_covariance(w), covariance, **CLOSE)
    torch.testing.assert_close(tree.score_variance(w), covariance.trace(), **CLOSE)

    per_token = torch.randn(len(responses), depth, generator=generator(2), dtype=torch.float64)
    theta = tree.parameters.clone().requires_grad_()
    probs = tree.log_probs().exp()
    loss = sum(
        probs[i] * per_token[i, t] * lp for i, row in enumerate(token_log_probs(theta)) for t, lp in enumerate(row)
    )
    (expected,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(tree.expected_token_score(per_token), expected, **CLOSE)

    factors = [torch.rand(level.shape, generator=generator(3), dtype=torch.float64) for level in tree.levels]
    local = torch.zeros(len(responses), depth, dtype=torch.float64)
    for i, y in enumerate(responses):
        for t in range(len(y)):
            local[i, t] = w[i] * factors[t][contexts[t][y[:t]], y[t]]
    torch.testing.assert_close(tree.expected_score(w, factors), tree.expected_token_score(local), **CLOSE)


def test_variance_with_factors_is_the_trace_over_responses():
    tree = Tree.random(3, 3, generator=generator())
    w = torch.randn(tree_leaves(3, 3), generator=generator(1), dtype=torch.float64)
    factors = [torch.rand(level.shape, generator=generator(3), dtype=torch.float64) for level in tree.levels]
    ones = [torch.ones_like(level) for level in tree.levels]
    torch.testing.assert_close(tree.score_variance(w, ones), tree.score_variance(w), **CLOSE)
    rows = []
    for y in tree.enumerate():
        g, context, start = torch.zeros_like(tree.parameters), 0, 0
        for t, token in enumerate(y):
            at = slice(start + 3 * context, start + 3 * context + 3)
            g[at] = factors[t][context, token] * (
                torch.eye(3, dtype=torch.float64)[token] - tree.levels[t][context].softmax(-1)
            )
            start, context = start + 3 * 2**t, 2 * context + token - 1
        rows.append(g)
    g = w[:, None] * torch.stack(rows)
    probs = tree.log_probs().exp()
    variance = (probs * g.square().sum(-1)).sum() - (probs @ g).square().sum()
    torch.testing.assert_close(tree.score_variance(w, factors), variance, **CLOSE)


def test_batches_are_trees_apart():
    tree = Tree.random(3, 3, batch=(2, 3), generator=generator())
    w = torch.randn(3, tree_leaves(3, 3), generator=generator(1), dtype=torch.float64)
    correct = w > 0
    for s, p in itertools.product(range(2), range(3)):
        single = Tree(tuple(level[s, p] for level in tree.levels))
        for whole, apart in (
            (tree.log_probs(), single.log_probs()),
            (tree.parameters, single.parameters),
            (tree.expected_score(w), single.expected_score(w[p])),
            (tree.score_variance(w), single.score_variance(w[p])),
            (tree.score_covariance(w), single.score_covariance(w[p])),
            (tree.success(correct), single.success(correct[p])),
        ):
            torch.testing.assert_close(whole[s, p], apart, **CLOSE)
    assert torch.equal(tree.with_parameters(tree.parameters).parameters, tree.parameters)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 2), max_size=2),
    st.integers(2, 4),
    st.integers(1, 3),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["normal", "ties", "one-hot"]),
    st.integers(0, 10**6),
)
def test_any_shape_dtype_and_distribution_of_trees(batch, vocab, depth, dtype, kind, seed):
    g = generator(seed)
    tree = Tree.random(vocab, depth, batch=batch, generator=g, dtype=dtype, scale=0.0 if kind == "ties" else 1.0)
    if kind == "one-hot":
        tree = Tree(tuple(torch.cat([level[..., :1] + 300, level[..., 1:]], -1) for level in tree.levels))
    n = tree_leaves(vocab, depth)
    w = torch.randn(*batch, n, generator=g, dtype=dtype)
    eps = 60 * n * torch.finfo(dtype).eps
    assert tree.log_probs().shape == (*batch, n)
    assert (tree.log_probs().exp().sum(-1) - 1).abs().max() <= eps
    score = tree.expected_score(w)
    assert score.dtype == tree.log_probs().dtype == tree.score_variance(w).dtype == dtype
    assert score.sum(-1).abs().max() <= eps * (1 + w.abs().max())
    assert (tree.score_variance(w) >= -eps * (1 + w.square().max())).all()
    drawn = tree.sample(torch.rand(*batch, 4, depth, generator=g, dtype=torch.float64))
    assert ((drawn.response >= 0) & (drawn.response < n)).all()
    assert (tree.log_probs().exp().gather(-1, drawn.response) > 0).all()
    if kind == "one-hot":  # every response is its end, at once
        assert not drawn.response.any()
        assert score.abs().max() <= eps * (1 + w.abs().max())


def test_sampling_follows_the_distribution():
    tree = Tree.random(3, 3, batch=(2,), generator=generator(2))
    u = torch.rand(2, DRAWS, 3, generator=generator(3), dtype=torch.float64)
    draws = tree.sample(u)
    for row in range(2):
        assert_frequencies(draws.response[row].bincount(minlength=tree_leaves(3, 3)), tree.log_probs()[row].exp())
    torch.testing.assert_close(
        tree.token_log_probs(draws).sum(-1), tree.log_probs().gather(-1, draws.response), **CLOSE
    )
    responses = tree.enumerate()
    for i in range(20):
        y = [int(draws.tokens[t][0, i]) for t in range(3) if draws.alive[t][0, i]]
        assert tuple(y) == responses[int(draws.response[0, i])]


def test_sampled_scores_are_sums_of_scores():
    g = generator()
    tree = Tree.random(3, 3, batch=(2,), generator=g)
    draws = tree.sample(torch.rand(2, 4, 3, generator=g, dtype=torch.float64))
    per_token = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    theta = tree.parameters.clone().requires_grad_()
    (expected,) = torch.autograd.grad((per_token * tree.with_parameters(theta).token_log_probs(draws)).sum(), theta)
    torch.testing.assert_close(tree.sampled_score(draws, per_token), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_cancel_leave_alone_what_was_not_drawn(dtype):
    """To the last bit: Adam and Lion would make a step of it."""
    g = generator(8)
    w = torch.randn(50, 8, generator=g, dtype=dtype)
    w = w - w.mean(-1, keepdim=True)
    assert w.sum(-1).any()
    tree = Tree.random(3, 2, batch=(50,), generator=g, dtype=dtype)
    draws = tree.sample(torch.rand(50, 8, 2, generator=g, dtype=torch.float64))
    root = tree.sampled_score(draws, w[..., None].expand(50, 8, 2))[:, :3]
    never = (draws.tokens[0][:, :, None] != torch.arange(3)).all(1)
    assert never.any()
    assert not root[never].any()


def test_expected_scores_of_responses_drawn_from_another_policy():
    """Σ_y μ(y) w(y) ∇ log π(y), with μ summed in by importance weights."""
    g = generator()
    tree, other = Tree.random(3, 3, generator=g), Tree.random(3, 3, generator=g)
    w = torch.randn(tree_leaves(3, 3), generator=g, dtype=torch.float64)
    ratio = (other.log_probs() - tree.log_probs()).exp()
    torch.testing.assert_close(tree.expected_score(w, behaviour=other), tree.expected_score(w * ratio), **CLOSE)


def test_expected_sums_over_the_tokens_of_responses():
    tree = Tree.random(3, 3, batch=(2,), generator=generator())
    g = generator(1)
    weights = torch.randn(tree_leaves(3, 3), generator=g, dtype=torch.float64)
    factors = [torch.randn(level.shape, generator=g, dtype=torch.float64) for level in tree.levels]
    expected = torch.zeros(2, dtype=torch.float64)
    for leaf, response in enumerate(tree.enumerate()):
        context = 0
        for factor, token in zip(factors, response, strict=False):
            expected += tree.probs()[:, leaf] * weights[leaf] * factor[:, context, token]
            context = context * 2 + token - 1
    torch.testing.assert_close(tree.expected_token_sum(weights, factors), expected, **CLOSE)


def test_bad_input():
    with pytest.raises(ValueError, match=r"levels: expected a tree that can be enumerated, .* got \d+ × 1; lower"):
        Tree.random(11, 9, generator=generator())
    with pytest.raises(ValueError, match=r"levels: expected shape \(2, 3\) at level 1, got \(4, 3\)"):
        Tree((torch.zeros(1, 3), torch.zeros(4, 3)))
    with pytest.raises(ValueError, match=r"levels: expected at least one level"):
        Tree(())
    with pytest.raises(ValueError, match=r"levels: expected a vocabulary of an end token and at least one other"):
        Tree((torch.zeros(1, 1),))
    with pytest.raises(ValueError, match=r"factors: expected one tensor for each of 2 levels, got 1"):
        Tree.random(3, 2, generator=generator()).expected_score(torch.ones(7), [torch.ones(1, 3)])
    with pytest.raises(ValueError, match=r"levels: expected a tree whose covariance fits .* score_variance"):
        Tree.random(4, 9, generator=generator()).score_covariance(torch.tensor(1.0))
