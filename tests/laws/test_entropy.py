"""Entropy, KL and their changes against autograd, 400-digit arithmetic and the order of the residual."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import (
    TokenStatistics,
    dense_statistics,
    entropy,
    entropy_change,
    entropy_change_parts,
    entropy_parts,
    entropy_vector,
    kl_divergence,
    kl_vector,
)
from tests.laws.test_mass_flow import weights_for
from tests.laws.test_softmax import GAPS, saturated_row
from tests.reference import softmax_dense as dense
from tests.reference import softmax_mp as mp


def stored(stats: TokenStatistics) -> TokenStatistics:
    """The statistics as they come back from records."""
    return dataclasses.replace(stats, covariance=None)


def close(value: torch.Tensor, exact: object, relative: float = 1e-10) -> bool:
    return bool(abs(mp.ctx.mpf(float(value)) - exact) <= relative * abs(exact))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["random", "uniform", "tied", "peaked"])
def test_vectors_against_autograd(kind: str) -> None:
    logits, _ = dense.rows(kind)
    ref = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(dense.entropy(z).sum(), z)
    assert (entropy_vector(logits) - grad).abs().max() <= 1e-13
    kl = (torch.softmax(z, -1) * (torch.log_softmax(z, -1) - torch.log_softmax(ref, -1))).sum(-1)
    (grad,) = torch.autograd.grad(kl.sum(), z)
    assert (kl_vector(logits, ref) - grad).abs().max() <= 1e-13
    torch.testing.assert_close(kl_divergence(logits, ref), kl.detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(entropy(logits), dense.entropy(logits), rtol=1e-11, atol=0)


@pytest.mark.parametrize("gap", GAPS)
def test_saturated_vectors_against_mpmath(gap: float) -> None:
    row = saturated_row(gap)
    ref = torch.tensor([0.3, -1.0, 2.0, 0.0, 5.0, 1.0], dtype=torch.float64)
    probs, ref_probs = mp.softmax(row.tolist()), mp.softmax(ref.tolist())
    h = mp.entropy_of(probs)
    assert close(entropy(row), h)
    for value, p in zip(entropy_vector(row), probs, strict=True):
        assert close(value, -p * (mp.ctx.log(p) + h))
    for a, b, pa, pb in ((row, ref, probs, ref_probs), (ref, row, ref_probs, probs)):
        kl = mp.ctx.fsum(p * mp.ctx.log(p / q) for p, q in zip(pa, pb, strict=True))
        assert close(kl_divergence(a, b), kl)
        for value, p, q in zip(kl_vector(a, b), pa, pb, strict=True):
            assert close(value, p * (mp.ctx.log(p / q) - kl))


@pytest.mark.parametrize("shift", [1e-1, 1e-4, 1e-7])
def test_kl_of_nearly_equal_laws(shift: float) -> None:
    row = torch.tensor([0.3, -1.0, 2.0, 0.0, 5.0, 1.0], dtype=torch.float64)
    moved = row.clone()
    moved[1] += shift
    p, q = mp.softmax(row.tolist()), mp.softmax(moved.tolist())
    kl = mp.ctx.fsum(a * mp.ctx.log(a / b) for a, b in zip(p, q, strict=True))
    # x + e^{−x} − 1 of a log-ratio x rounds to eps·x, beside x²/2
    assert close(kl_divergence(row, moved), kl, 1e-14 / shift)
    assert float(kl_divergence(row, row)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e3, 2e4, 1e6, 1e30])
def test_kl_of_gaps_of_any_size(gap: float, dtype: torch.dtype) -> None:
    """Of [0, 0] against [0, −g]: KL = g/2 − log 2, and its gradient is ∓g/4."""
    row, ref = torch.zeros(2, dtype=dtype), torch.tensor([0.0, -gap], dtype=dtype)
    relative = 4 * torch.finfo(dtype).eps
    assert float(kl_divergence(row, ref)) == pytest.approx(gap / 2 - math.log(2), rel=relative)
    assert kl_vector(row, ref).tolist() == pytest.approx([-gap / 4, gap / 4], rel=relative)
    # the other way round all mass is on token 0, so that π·log(π/ref) is log 2 there and 0 at the other
    assert float(kl_divergence(ref, row)) == pytest.approx(math.log(2), rel=relative)
    assert float(entropy(ref)) == 0
    assert kl_vector(ref, row).abs().max() == 0
    # each on a token of its own: the gap is all of it
    assert float(kl_divergence(ref, -ref)) == pytest.approx(gap, rel=relative)


def test_kl_over_columns_that_both_mask() -> None:
    """0·(−∞) counts for nothing, in the divergence and in its gradient."""
    row, ref = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.0, 1.0, 0.5])
    nothing = torch.tensor([-torch.inf])
    masked = torch.cat([row, nothing]), torch.cat([ref, nothing])
    assert float(kl_divergence(*masked)) == pytest.approx(float(kl_divergence(row, ref)), rel=1e-6)
    torch.testing.assert_close(kl_vector(*masked)[:3], kl_vector(row, ref))
    assert float(kl_vector(*masked)[3]) == 0
    assert float(entropy_vector(masked[0])[3]) == 0


def test_kl_over_masked_tokens() -> None:
    masked = torch.tensor([0.0, 1.0, -torch.inf], dtype=torch.float64)
    full = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64)
    p, q = torch.softmax(masked, -1), torch.softmax(full, -1)
    expected = (p[:2] * (p[:2] / q[:2]).log()).sum()
    torch.testing.assert_close(kl_divergence(masked, full), expected)
    assert float(kl_vector(masked, full)[2]) == 0
    assert float(kl_divergence(masked, masked)) == 0
    for function in (kl_divergence, kl_vector):
        with pytest.raises(ValueError, match=r"ref_logits: a token that the policy can sample .* index 2"):
            function(full, masked)
        with pytest.raises(ValueError, match=r"ref_logits: expected the shape of logits, \(3,\), got \(2,\)"):
            function(full, full[:2])


def realised(logits: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor, step: float) -> torch.Tensor:
    """Changes of H and its parts (binary, weighted rest, rest), as plain differences, (4, rows)."""
    one_hot = torch.nn.functional.one_hot(tokens, logits.shape[-1])
    moved = logits + step * weight[:, None] * (one_hot - torch.softmax(logits, -1))
    now = torch.stack([dense.entropy(logits), *dense.split_entropy(logits, tokens)])
    return torch.stack([dense.entropy(moved), *dense.split_entropy(moved, tokens)]) - now


def predicted(stats: TokenStatistics, weight: torch.Tensor, step: float) -> torch.Tensor:
    return torch.stack([entropy_change(stats, weight, step), *entropy_change_parts(stats, weight, step)])


@pytest.mark.parametrize("from_records", [False, True])
def test_entropy_change_leaves_a_second_order_residual(from_records: bool) -> None:
    logits, tokens = dense.rows("random")
    weight = weights_for(tokens)
    stats = dense_statistics(logits, tokens)
    stats = stored(stats) if from_records else stats
    steps = torch.logspace(-3.5, -2, 6, dtype=torch.float64)
    residuals = [
        (realised(logits, tokens, weight, s) - predicted(stats, weight, s)).abs().log() for s in steps.tolist()
    ]
    x = steps.log() - steps.log().mean()
    slopes = (x[:, None, None] * torch.stack(residuals)).sum(0) / (x * x).sum()
    for slope in slopes.median(-1).values.tolist():
        assert slope == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", ["uniform", "tied", "peaked"])
def test_entropy_change_in_degenerate_rows(kind: str) -> None:
    logits, tokens = dense.rows(kind)
    weight = weights_for(tokens)
    stats = dense_statistics(logits, tokens)
    # |d²H/dη²| ≤ osc(Δz)²·(1 + max|log π|), osc ≤ 2|w|; |log π| ≤ 17 here. The slack is rounding of H (5e-15) and, for
    # the rest, of a log-softmax of the other tokens.
    bound = 4 * weight.square() * 18
    for step in (1e-2, 1e-3, 1e-4):
        residual = (realised(logits, tokens, weight, step) - predicted(stats, weight, step)).abs()
        assert (residual <= bound * step**2 + 2e-14).all()


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("token", [2, 0, 5])
def test_saturated_entropy_change_against_mpmath(gap: float, token: int) -> None:
    row = saturated_row(gap)
    stats = dense_statistics(row, torch.tensor(token))
    (slope,) = mp.derivative(lambda probs: [mp.entropy_of(probs)], row.tolist(), token)
    assert close(entropy_change(stats, -2.0, 0.5), -slope)
    for value, exact in zip(entropy_parts(stats), mp.entropy_split(mp.softmax(row.tolist()), token), strict=True):
        assert close(value, exact)
    parts = mp.derivative(lambda probs: mp.entropy_split(probs, token), row.tolist(), token)
    for value, exact in zip(entropy_change_parts(stats, -2.0, 0.5), parts, strict=True):
        # dH(rest) is what is left of terms |log(1 − π_y)| times its size, hence the gap
        assert close(value, -exact, 1e-13 * max(gap, 1000))


def test_what_stored_statistics_leave_of_entropy_change() -> None:
    for gap in (5.0, 10.0, 15.0):
        row = saturated_row(gap)
        stats = dense_statistics(row, torch.tensor(2))
        miss = float(stats.one_minus_prob)
        error = float((entropy_change(stored(stats), 1.0, 1.0) - entropy_change(stats, 1.0, 1.0)).abs())
        assert error <= 8 * 2.2e-16 * miss * gap
    uniform = dense_statistics(torch.zeros(1000, dtype=torch.float64), torch.tensor(3))
    assert float(entropy_change(uniform, 1.0, 1.0)) == 0
    assert abs(float(entropy_change(stored(uniform), 1.0, 1.0))) <= 8 * 2.2e-16 * 6.9 / 1000


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_parts_make_the_whole_and_nsr_sharpens_the_rest(kind: str) -> None:
    logits, tokens = dense.rows(kind)
    stats = dense_statistics(logits, tokens)
    parts, change = entropy_parts(stats), entropy_change_parts(stats, -1.0, 1.0)
    torch.testing.assert_close(parts.binary + parts.weighted_rest, stats.entropy, rtol=1e-13, atol=0)
    total = entropy_change(stats, -1.0, 1.0)
    torch.testing.assert_close(change.binary + change.weighted_rest, total, rtol=0, atol=1e-14)
    for value, expected in zip(parts, dense.split_entropy(logits, tokens), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-14)
    assert (change.rest < 1e-14).all()


def test_nsr_of_an_unlikely_token_lowers_entropy() -> None:
    logits, _ = dense.rows("random", n=100)
    tokens = logits.argmin(-1)
    stats = dense_statistics(logits, tokens)
    unlikely = stats.prob < torch.exp(-stats.entropy)
    assert unlikely.all()
    assert (entropy_change(stats, -1.0, 1.0) < 0).all()


def test_one_and_two_token_vocabularies() -> None:
    one = dense_statistics(torch.zeros(1), torch.tensor(0))
    assert [float(x) for x in (*entropy_parts(one), *entropy_change_parts(one, 1.0, 1.0))] == [0.0] * 6
    assert float(entropy_change(one, 1.0, 1.0)) == 0
    two = dense_statistics(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(0))
    assert float(entropy_parts(two).rest) == pytest.approx(0, abs=1e-15)
    assert float(entropy_change_parts(two, 1.0, 1.0).rest) == pytest.approx(0, abs=1e-15)


def test_float32_statistics_keep_their_accuracy() -> None:
    logits, tokens = dense.rows("random", vocab=108)
    logits = logits.float()
    exact = entropy_change(dense_statistics(logits.double(), tokens), -1.0, 1.0)
    change = entropy_change(dense_statistics(logits, tokens), -1.0, 1.0)
    assert ((change - exact).abs() <= 1e-6 * exact.abs() + 1e-8).all()
    stored_change = entropy_change(stored(dense_statistics(logits, tokens)), -1.0, 1.0)
    assert (stored_change - exact).abs().max() <= 2e-6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), st.floats(-10, 10))
def test_vectors_sum_to_zero_and_ignore_shifts(row: list[float], shift: float) -> None:
    z = torch.tensor(row, dtype=torch.float64)
    ref = z.flip(0) / 2
    for vector, moved in (
        (entropy_vector(z), entropy_vector(z + shift)),
        (kl_vector(z, ref), kl_vector(z + shift, ref - shift)),
    ):
        assert abs(float(vector.sum())) <= 1e-13
        torch.testing.assert_close(moved, vector, rtol=1e-10, atol=1e-12)
    assert float(kl_divergence(z, ref)) >= 0
    # towards the uniform law entropy rises: its vector points against the logits
    assert float(entropy_vector(z) @ z) <= 1e-14
