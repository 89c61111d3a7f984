"""The exact toys against the slow route: every response written out, autograd in float64, sums over responses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models import Bandit, LogLinear, Tree, tree_leaves
from toy_models.exact.arms import draw

# products of a few hundred float64 numbers of order one
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(log_probs_of, parameters, weights):
    """Mean and covariance of w·∇ log π(y) over y, with the scores from autograd."""
    scores = torch.autograd.functional.jacobian(log_probs_of, parameters)
    scores = scores.flatten(0, -parameters.ndim - 1).flatten(1)
    probs = log_probs_of(parameters).detach().exp().flatten()
    g = weights.flatten()[:, None] * scores
    mean = probs @ g
    return mean, (probs[:, None] * g).T @ g - torch.outer(mean, mean)


@pytest.mark.parametrize("arms", [1, 2, 7])
def test_bandit(arms):
    z, w = (
        torch.randn(arms, generator=generator(), dtype=torch.float64) * 2,
        torch.randn(arms, generator=generator(1), dtype=torch.float64),
    )
    bandit = Bandit(z)
    mean, covariance = dense(lambda t: t.log_softmax(-1), z, w)
    torch.testing.assert_close(bandit.expected_score(w), mean, **CLOSE)
    torch.testing.assert_close(bandit.score_covariance(w), covariance, **CLOSE)


def test_bandit_batches_are_bandits_apart():
    z = torch.randn(3, 4, 5, generator=generator(), dtype=torch.float64)
    w = torch.randn(4, 5, generator=generator(1), dtype=torch.float64)
    correct = torch.rand(4, 5, generator=generator(2)) < 0.4
    whole = Bandit(z)
    for s, p in itertools.product(range(3), range(4)):
        one = Bandit(z[s, p])
        torch.testing.assert_close(whole.expected_score(w)[s, p], one.expected_score(w[p]), **CLOSE)
        torch.testing.assert_close(whole.score_covariance(w)[s, p], one.score_covariance(w[p]), **CLOSE)
        torch.testing.assert_close(whole.success(correct)[s, p], one.success(correct[p]), **CLOSE)
    assert torch.equal(whole.with_parameters(whole.parameters + 1).logits, z + 1)


def test_log_linear():
    features = torch.randn(4, 5, 3, generator=generator(), dtype=torch.float64)
    theta = torch.randn(3, generator=generator(1), dtype=torch.float64)
    w = torch.randn(4, 5, generator=generator(2), dtype=torch.float64)
    policy = LogLinear(features, theta)

    def log_probs(t):  # of a prompt drawn uniformly and its arm
        return (features @ t).log_softmax(-1) - torch.log(torch.tensor(4.0, dtype=torch.float64))

    mean, covariance = dense(log_probs, theta, w)
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


TREES = [(2, 1), (2, 4), (3, 3), (4, 2), (5, 1)]


@pytest.mark.parametrize(("vocab", "depth"), TREES)
def test_tree_against_every_response_written_out(vocab, depth):
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
    mean, covariance = dense(log_probs, tree.parameters, w)
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


def test_tree_variance_with_factors_is_the_trace_over_responses():
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


def test_tree_batches_are_trees_apart():
    tree = Tree.random(3, 3, batch=(2, 3), generator=generator())
    w = torch.randn(3, tree_leaves(3, 3), generator=generator(1), dtype=torch.float64)
    correct = w > 0
    for s, p in itertools.product(range(2), range(3)):
        one = Tree(tuple(level[s, p] for level in tree.levels))
        for whole, apart in (
            (tree.log_probs(), one.log_probs()),
            (tree.parameters, one.parameters),
            (tree.expected_score(w), one.expected_score(w[p])),
            (tree.score_variance(w), one.score_variance(w[p])),
            (tree.score_covariance(w), one.score_covariance(w[p])),
            (tree.success(correct), one.success(correct[p])),
        ):
            torch.testing.assert_close(whole[s, p], apart, **CLOSE)
    assert torch.equal(tree.with_parameters(tree.parameters).parameters, tree.parameters)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(TREES[1:]), st.floats(0.1, 20))
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


DRAWS = 20_000


def within(counts, probs):
    """Every count within 5 standard errors of its expectation: one false alarm in some 10^4 tests of a few cells."""
    n = counts.sum()
    assert ((counts - n * probs).abs() <= 5 * (n * probs * (1 - probs)).sqrt() + 1).all()


def test_sampling_follows_the_distribution():
    u = torch.rand(2, DRAWS, generator=generator(), dtype=torch.float64)
    bandit = Bandit(torch.randn(2, 6, generator=generator(1), dtype=torch.float64) * 2)
    for row in range(2):
        within(bandit.sample(u)[row].bincount(minlength=6), bandit.log_probs()[row].exp())
    tree = Tree.random(3, 3, batch=(2,), generator=generator(2))
    u = torch.rand(2, DRAWS, 3, generator=generator(3), dtype=torch.float64)
    draws = tree.sample(u)
    for row in range(2):
        within(draws.response[row].bincount(minlength=tree_leaves(3, 3)), tree.log_probs()[row].exp())
    torch.testing.assert_close(
        tree.token_log_probs(draws).sum(-1), tree.log_probs().gather(-1, draws.response), **CLOSE
    )
    responses = tree.enumerate()
    for i in range(20):
        y = [int(draws.tokens[t][0, i]) for t in range(3) if draws.alive[t][0, i]]
        assert tuple(y) == responses[int(draws.response[0, i])]


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
    policy = LogLinear(torch.randn(3, 5, 2, generator=g, dtype=torch.float64), torch.randn(2, generator=g).double())
    arms = policy.sample(torch.rand(3, 4, generator=g, dtype=torch.float64))
    theta = policy.theta.clone().requires_grad_()
    chosen = policy.with_parameters(theta).log_probs().gather(-1, arms)
    (expected,) = torch.autograd.grad((w[0] * chosen).sum() / 3, theta)
    torch.testing.assert_close(policy.sampled_score(arms, w[0]), expected, **CLOSE)
    tree = Tree.random(3, 3, batch=(2,), generator=g)
    draws = tree.sample(torch.rand(2, 4, 3, generator=g, dtype=torch.float64))
    per_token = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    theta = tree.parameters.clone().requires_grad_()
    (expected,) = torch.autograd.grad((per_token * tree.with_parameters(theta).token_log_probs(draws)).sum(), theta)
    torch.testing.assert_close(tree.sampled_score(draws, per_token), expected, **CLOSE)


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
        found = policy.pass_at_k(correct, k)
        for distribution, right, one in zip(probs.tolist(), correct.tolist(), found.tolist(), strict=True):
            tuples = itertools.product(range(len(distribution)), repeat=k)
            total = sum(math.prod(distribution[y] for y in drawn) for drawn in tuples if any(right[y] for y in drawn))
            assert one == pytest.approx(total, abs=1e-14)
    assert Bandit(torch.zeros(3)).pass_at_k(torch.tensor([True] * 3), 2) == 1
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match="k: expected a whole number of responses, at least 1, got"):
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
    tree = Tree.random(3, 2, batch=(50,), generator=g, dtype=dtype)
    draws = tree.sample(torch.rand(50, 8, 2, generator=g, dtype=torch.float64))
    root = tree.sampled_score(draws, w[..., None].expand(50, 8, 2))[:, :3]
    never = (draws.tokens[0][:, :, None] != torch.arange(3)).all(1)
    assert never.any()
    assert not root[never].any()
    kept = w.clone()
    kept[:, 0] += 160 * torch.finfo(dtype).eps * w.abs().sum(-1)
    assert Bandit(torch.zeros(50, 6, dtype=dtype)).sampled_score(arms, kept)[:, 3:].all()


def test_expected_scores_of_arms_drawn_from_another_policy():
    """Σ_y μ(y) w(y) ∇ log π(y), with μ summed in by importance weights."""
    g = generator()
    tree, other = Tree.random(3, 3, generator=g), Tree.random(3, 3, generator=g)
    w = torch.randn(tree_leaves(3, 3), generator=g, dtype=torch.float64)
    ratio = (other.log_probs() - tree.log_probs()).exp()
    torch.testing.assert_close(tree.expected_score(w, behaviour=other), tree.expected_score(w * ratio), **CLOSE)
    z, u = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    w = torch.randn(3, 5, generator=g, dtype=torch.float64)
    ratio = (u.log_softmax(-1) - z.log_softmax(-1)).exp()
    torch.testing.assert_close(Bandit(z).expected_score(w, behaviour=Bandit(u)), Bandit(z).expected_score(w * ratio))
    features = torch.randn(3, 5, 2, generator=g, dtype=torch.float64)
    a, b = (LogLinear(features, torch.randn(2, generator=g, dtype=torch.float64)) for _ in range(2))
    ratio = (b.log_probs() - a.log_probs()).exp()
    torch.testing.assert_close(a.expected_score(w, behaviour=b), a.expected_score(w * ratio), **CLOSE)


@pytest.mark.parametrize("toy", ["bandit", "log-linear", "tree"])
def test_masks_weights_and_uniforms_that_will_not_do(toy):
    policy, n, u = {
        "bandit": lambda: (Bandit(torch.zeros(2, 3, 7)), 7, (2, 3, 4)),
        "log-linear": lambda: (LogLinear(torch.zeros(3, 7, 5), torch.zeros(2, 5)), 7, (2, 3, 4)),
        "tree": lambda: (Tree.random(3, 2, batch=(2, 3), generator=generator()), 7, (2, 3, 4, 2)),
    }[toy]()
    good = torch.ones(n, dtype=torch.bool)
    shapes = r"expected a shape that spreads over the responses \(2, 3, 7\), got"
    for call, message in (
        (lambda: policy.success(good[:5]), rf"correct: {shapes} \(5,\)"),
        (lambda: policy.success(good.expand(4, 2, 3, n)), rf"correct: {shapes} \(4, 2, 3, 7\)"),
        (lambda: policy.success(good.double()), r"correct: expected a bool mask, got torch.float64"),
        (lambda: policy.pass_at_k(good[:5], 2), rf"correct: {shapes}"),
        (lambda: policy.expected_score(torch.ones(3)), rf"weights: {shapes} \(3,\)"),
        (lambda: policy.score_covariance(torch.ones(3)), rf"weights: {shapes} \(3,\)"),
        (lambda: policy.expected_score(torch.where(good, torch.inf, 0.0)), r"weights: .* got inf at index \(0,\)"),
        (lambda: policy.sample(torch.full(u, 1.0)), r"uniforms: expected numbers in \[0, 1\), got 1 to 1"),
        (lambda: policy.sample(torch.full(u, -0.5)), r"uniforms: expected numbers in \[0, 1\), got -0.5"),
        (lambda: policy.sample(torch.full(u, torch.nan)), r"uniforms: expected numbers in \[0, 1\), got nan"),
        (lambda: policy.sample(torch.zeros(u[1:])), r"uniforms: expected batch axes \(2, 3\) before the draws"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if toy == "tree":
        with pytest.raises(ValueError, match="uniforms: expected one for each of 2 positions on the last axis"):
            policy.sample(torch.zeros(2, 3, 4, 3))


def test_bad_input():
    with pytest.raises(ValueError, match=r"logits: expected finite logits, got nan at index \(0, 1\)"):
        Bandit(torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match=r"logits: expected floating-point logits .* got torch.int64"):
        Bandit(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"probs: expected positive numbers that sum to one .* a sum of 0\.9"):
        Bandit.from_probs(torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match=r"theta: expected \(…, F\) for features \(P, A, F\), got \(2,\)"):
        LogLinear(torch.zeros(2, 3, 4), torch.zeros(2))
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
    with pytest.raises(ValueError, match=r"probs: expected positive numbers that sum to one .* a least one of nan"):
        Bandit.from_probs(torch.tensor([0.5, torch.nan]))
    probs = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(Bandit.from_probs(probs).logits.softmax(-1), probs)
