"""Success, boundaries, flows and diffusion against autograd, dense sums, finite differences and the exact toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import UsageError
from analysis.laws import (
    alternative_flow,
    boundary_curves,
    conserved_differences,
    covariance_gap,
    dense_statistics,
    entropy,
    entropy_change,
    entropy_hessian,
    entropy_sign_boundary,
    expected_direction,
    expected_flow,
    first_order_reach,
    log_prob_change,
    mass_flow,
    second_order_entropy_change,
    sequence_entropy,
    squeeze_boundary,
    success_change,
)
from toy_models import Bandit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=40, vocab=9, seed=0, scale=2.0):
    g = generator(seed)
    z = scale * torch.randn(n, vocab, generator=g, dtype=torch.float64)
    correct = torch.rand(n, vocab, generator=g) < 0.4
    tokens = torch.randint(vocab, (n,), generator=g)
    return z, correct, tokens


# -- success -----------------------------------------------------------------------------------------------------------


def test_success_change_is_the_closed_form_of_the_page():
    z, correct, y = rows()
    pi = z.softmax(-1)
    p = (pi * correct).sum(-1)
    c_right, c_wrong = ((pi**2 * mask).sum(-1) for mask in (correct, ~correct))
    pi_y = pi.gather(-1, y[:, None])[:, 0]
    right = pi_y * (1 - p) - (1 - p) * c_right + p * c_wrong
    wrong = -p * pi_y - (1 - p) * c_right + p * c_wrong
    own = correct.gather(-1, y[:, None])[:, 0]
    expected = -0.3 * 0.1 * torch.where(own, right, wrong)
    torch.testing.assert_close(success_change(z, correct, y, -0.3, 0.1), expected, rtol=1e-9, atol=1e-15)
    after = (z - 0.03 * (torch.nn.functional.one_hot(y, 9) - pi)).softmax(-1)
    exact = (after * correct).sum(-1) - p
    torch.testing.assert_close(success_change(z, correct, y, -0.3, 0.1, exact=True), exact, rtol=1e-9, atol=1e-14)
    assert (expected > 0).any()
    assert (expected < 0).any()


def test_a_single_positive_or_negative_sample_can_lower_success():
    z, correct, y = rows(4000, seed=3)
    own = correct.gather(-1, y[:, None])[:, 0]
    lowered = success_change(z, correct, y, torch.where(own, 1.0, -1.0).double(), 0.01) < 0
    assert 0 < lowered[own].double().mean() < 0.5
    assert 0 < lowered[~own].double().mean() < 0.5


@pytest.mark.parametrize("exact", [False, True])
def test_alternative_flow_is_a_partition_of_mass_flow(exact):
    z, correct, y = rows()
    flow = alternative_flow(z, correct, y, 1.5, 0.2, exact=exact)
    dense = mass_flow(z, y, 1.5, 0.2, exact=exact)
    for i in range(len(z)):
        sums = {True: 0.0, False: 0.0}
        for v in range(9):
            if v != y[i]:
                sums[bool(correct[i, v])] += dense[i, v].item()
        assert flow.token[i].item() == pytest.approx(dense[i, y[i]].item(), abs=1e-15)
        assert flow.correct[i].item() == pytest.approx(sums[True], abs=1e-14)
        assert flow.wrong[i].item() == pytest.approx(sums[False], abs=1e-14)
    torch.testing.assert_close(sum(flow), torch.zeros(len(z), dtype=torch.float64), rtol=0, atol=1e-14)


def test_sequence_entropy_adds_up():
    z, correct, _ = rows(30, 12)
    correct[0], correct[1] = True, False
    log_probs = z.log_softmax(-1)
    parts = sequence_entropy(log_probs, correct)
    p = (log_probs.exp() * correct).sum(-1)
    total = parts.binary + p * parts.correct + (1 - p) * parts.wrong
    torch.testing.assert_close(total, parts.total, rtol=1e-10, atol=0)
    for i in range(2, 30):
        given = log_probs[i][correct[i]].exp() / p[i]
        assert parts.correct[i].item() == pytest.approx(-(given * given.log()).sum().item(), abs=1e-12)
    assert parts.wrong[0] == 0
    assert parts.correct[1] == 0
    assert parts.binary[:2].abs().max() < 1e-12


# -- boundaries --------------------------------------------------------------------------------------------------------


def law_with(y, q):
    return torch.tensor(np.concatenate([[y], (1 - y) * q]), dtype=torch.float64).log()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0.001, 0.999), st.floats(0, 3), st.integers(0, 10**6))
def test_curves_are_the_statistics_of_the_law(m, y, scale, seed):
    q = np.exp(scale * np.random.default_rng(seed).normal(size=m))
    q /= q.sum()
    curves = boundary_curves(q, np.array([y]))
    stats = dense_statistics(law_with(y, q), torch.tensor(0))
    # sums of up to thirty terms of order one, differences of them
    assert curves.squeeze[0] == pytest.approx(squeeze_boundary(stats).item(), abs=1e-13)
    assert curves.entropy[0] == pytest.approx(stats.entropy.item(), abs=1e-12)
    assert curves.covariance[0] == pytest.approx(-entropy_change(stats, 1.0, 1.0).item(), abs=1e-13)
    flow = mass_flow(law_with(y, q), torch.tensor(0), 1.0, 1.0)[1:].numpy()
    against = q[flow < 0].sum()
    assert curves.against[0] == pytest.approx(against, abs=q.min() + 1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.floats(0, 3), st.integers(0, 10**6))
def test_the_entropy_changes_sign_once_at_its_boundary(m, scale, seed):
    q = np.exp(scale * np.random.default_rng(seed).normal(size=m))
    q /= q.sum()
    boundary = entropy_sign_boundary(q)
    grid = np.array([boundary * 0.9, boundary + 0.05 * (1 - boundary)])
    below, above = boundary_curves(q, grid).covariance
    assert below < 0 < above
    h = boundary_curves(q, np.array([boundary])).entropy[0]
    assert boundary >= np.exp(-h) * (1 - 1e-9)


def test_reach_of_first_order():
    z, _, y = rows(20)
    for tolerance in (0.01, 0.1):
        eta = first_order_reach(z, y, 1.0, tolerance=tolerance)
        for side, sign in ((0.999, -1), (1.001, 1)):
            step = eta * side
            pi, e = z.softmax(-1), torch.nn.functional.one_hot(y, 9)
            exact = (z + step[:, None] * (e - pi)).softmax(-1) - pi
            linear = mass_flow(z, y, 1.0, step)
            error = (exact - linear).abs().sum(-1) / exact.abs().sum(-1)
            assert ((error - tolerance) * sign > 0).all()
    # the error of first order grows linearly with the step, so its reach does with the tolerance
    ratio = first_order_reach(z, y, 1.0, tolerance=0.002) / first_order_reach(z, y, 1.0, tolerance=0.001)
    assert (ratio - 2).abs().max() < 0.05


# -- flows -------------------------------------------------------------------------------------------------------------

CASES = [("psr", "log"), ("nsr", "log"), ("psr", "probability"), ("nsr", "probability")]


def problem(seed=0, arms=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, arms)), np.arange(arms) < 3


@pytest.mark.parametrize(("sign", "form"), CASES)
def test_direction_is_the_expected_score(sign, form):
    z, correct = problem()
    bandit = Bandit(torch.from_numpy(z))
    weights = torch.from_numpy(correct * 1.0 if sign == "psr" else correct - 1.0).expand(3, 7)
    if form == "probability":
        weights = weights * bandit.log_probs().exp()
    direction = expected_direction(z, correct, sign, form)
    np.testing.assert_allclose(direction, bandit.expected_score(weights).numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("sign", "form"), CASES)
def test_small_steps_converge_to_the_flow_with_order_one(sign, form):
    z, correct = problem()
    exact = expected_flow(z, correct, np.array([4.0]), sign=sign, form=form).logits[-1]
    errors = []
    counts = np.array([200, 400, 800, 1600])
    for n in counts:
        at = z.copy()
        for _ in range(n):
            at += 4.0 / n * expected_direction(at, correct, sign, form)
        errors.append(np.abs(at - exact).max())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("sign", "form", "arms"),
    [
        ("psr", "log", "correct"),
        ("psr", "log", "wrong"),
        ("psr", "probability", "wrong"),
        ("nsr", "probability", "correct"),
    ],
)
def test_conserved_quantities(sign, form, arms):
    z, correct = problem()
    of = correct if arms == "correct" else ~correct
    flow = expected_flow(z, correct, np.array([0.0, 3.0, 30.0]), sign=sign, form=form)
    kept = conserved_differences(flow.logits, of)
    scale = np.exp(-flow.logits[:, :, of]).max()
    assert np.abs(kept - kept[0]).max() < 1e-7 * scale  # solver tolerance 1e-10 a unit, over 30 units and e^-z
    moved = flow.logits[-1] - flow.logits[0]
    assert np.abs(moved).max() > 0.5
    if form == "probability":  # and the other side is not conserved
        other = conserved_differences(flow.logits, ~of)
        assert np.abs(other - other[0]).max() > 1e-3


def test_the_log_flow_collapses_onto_the_best_prior_correct_arm():
    z, correct = problem()
    flow = expected_flow(z, correct, np.array([0.0, 3000.0]))
    final = np.exp(flow.logits[-1] - flow.logits[-1].max(-1, keepdims=True))
    final /= final.sum(-1, keepdims=True)
    best = np.where(correct, z, -np.inf).argmax(-1)
    assert (final.argmax(-1) == best).all()
    given = final[:, :3] / final[:, :3].sum(-1, keepdims=True)
    start = np.exp(z[:, :3]) / np.exp(z[:, :3]).sum(-1, keepdims=True)
    assert (given.max(-1) > start.max(-1) + 0.1).all()


# -- diffusion ---------------------------------------------------------------------------------------------------------


def test_hessian_against_autograd():
    z, _, _ = rows(5)
    for row in z:
        dense = torch.autograd.functional.hessian(lambda t: -(t.softmax(-1) * t.log_softmax(-1)).sum(), row)
        torch.testing.assert_close(entropy_hessian(row), dense, rtol=1e-10, atol=1e-13)


def test_second_order_entropy_change_against_monte_carlo_and_its_order():
    """Mean ΔH over sampled updates of two draws each: within 4.5 standard errors of the second order where third-order
    terms (step³) are far below them; PSR and NSR differ by the covariance gap alone."""
    z = torch.tensor([1.0, 0.3, -0.5, 0.0, -1.0], dtype=torch.float64)
    correct = torch.tensor([True, False, True, False, False])
    bandit, n, step, draws = Bandit(z), 2, 0.05, 400_000
    predicted = {}
    for sign, weights in (("psr", correct.double()), ("nsr", correct.double() - 1)):
        mean, covariance = bandit.expected_score(weights), bandit.score_covariance(weights) / n
        predicted[sign] = second_order_entropy_change(z, mean, covariance, step)
        arms = Bandit(z.expand(draws, 5)).sample(torch.rand(draws, n, generator=generator(7), dtype=torch.float64))
        moved = z + step * Bandit(z.expand(draws, 5)).sampled_score(arms, weights[arms]) / n
        change = entropy(moved) - entropy(z)
        error = change.std() / draws**0.5
        assert abs(change.mean() - predicted[sign]) < 4.5 * error
        first = step * (torch.autograd.functional.jacobian(entropy_of, z) * mean).sum()
        assert abs(change.mean() - first) > 10 * error  # the second order is needed
    gap = covariance_gap(z, correct)
    difference = step**2 / 2 * (entropy_hessian(z) * gap).sum() / n
    assert predicted["psr"] - predicted["nsr"] == pytest.approx(difference.item(), rel=1e-9)


def entropy_of(t):
    return -(t.softmax(-1) * t.log_softmax(-1)).sum()


def test_covariance_gap_is_the_difference_of_the_covariances():
    z, correct, _ = rows(10)
    bandit, r = Bandit(z), correct.double()
    expected = bandit.score_covariance(r) - bandit.score_covariance(r - 1)
    torch.testing.assert_close(covariance_gap(z, correct), expected, rtol=1e-10, atol=1e-14)
    # which is noisier follows p on the uniform law: NSR where correct arms are few
    uniform = torch.zeros(10, dtype=torch.float64)
    traces = [covariance_gap(uniform, torch.arange(10) < k).trace().item() for k in (2, 8)]
    assert traces[0] < 0 < traces[1]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_bad_input():
    z, correct, y = rows(3)
    for call, message in (
        (lambda: success_change(z, correct[:2], y, 1.0, 0.1), r"correct: expected a bool mask of the shape of logits"),
        (lambda: alternative_flow(z, correct.double(), y, 1.0, 0.1), r"correct: .* got torch.float64"),
        (lambda: sequence_entropy(z, correct), r"log_probs: expected a distribution over all responses"),
        (lambda: boundary_curves(np.ones(3), np.array([0.5])), r"rest: expected positive proportions"),
        (lambda: boundary_curves(np.ones(2) / 2, np.array([0.0])), r"probs: expected numbers strictly between 0 and 1"),
        (lambda: first_order_reach(z, y, 1.0, tolerance=1.0), r"tolerance: expected a number between 0 and 1"),
        (lambda: expected_direction(z.numpy(), correct.numpy(), "ppo", "log"), r"sign, form: expected psr or nsr"),
        (lambda: expected_direction(z.numpy(), correct.numpy()[:, :2], "psr", "log"), r"correct: expected the shape"),
        (lambda: expected_direction(np.array([np.nan, 0]), np.array([True, False]), "psr", "log"), r"logits: expected"),
        (lambda: expected_flow(z.numpy(), correct.numpy(), np.array([1.0, 0.5])), r"times: expected numbers from 0 up"),
        (lambda: second_order_entropy_change(z, z, z, 0.1), r"mean, covariance: expected \(3, 9\) and \(3, 9, 9\)"),
        (lambda: covariance_gap(z, correct.double()), r"correct: expected a bool mask of the shape of logits"),
        (lambda: log_prob_change(dense_statistics(z, y), torch.ones(2), 0.1), r"weight: expected one number"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
