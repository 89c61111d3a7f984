"""Mass flow: exact steps against 400-digit arithmetic, first order by the slope of its residual, and identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import (
    bucket_flow,
    bucket_sums,
    dense_statistics,
    log_prob_change,
    logit_gradient,
    logit_step_flow,
    mass_flow,
    other_prob_change,
    rises,
    squeeze_boundary,
    sum_by_bucket,
    token_prob_change,
)
from tests.laws.test_softmax import GAPS, saturated_row
from tests.reference import softmax_dense as dense
from tests.reference import softmax_mp as mp

EDGES = (1, 4, 9)


def all_laws(logits: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor, step: float) -> dict[str, torch.Tensor]:
    """Every first-order law as (row, …)."""
    stats = dense_statistics(logits, tokens)
    probs = torch.softmax(logits, -1)
    sums = bucket_sums(logits, EDGES)
    own = sums.membership.gather(-1, tokens[:, None]).squeeze(-1)
    others = other_prob_change(probs, stats, weight, step).scatter(-1, tokens[:, None], 0)
    return {
        "mass_flow": mass_flow(logits, tokens, weight, step),
        "token": token_prob_change(stats, weight, step)[:, None],
        "log_prob": log_prob_change(stats, weight, step)[:, None],
        "others": others,
        "buckets": bucket_flow(sums.mass, sums.mass_sq, stats, weight, step, token_bucket=own),
    }


def realised(logits: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor, step: float) -> dict[str, torch.Tensor]:
    """The same quantities as plain differences of two softmaxes."""
    one_hot = torch.nn.functional.one_hot(tokens, logits.shape[-1])
    before = torch.softmax(logits, -1)
    after = torch.softmax(logits + step * weight[:, None] * (one_hot - before), -1)
    change = after - before
    y = tokens[:, None]
    membership = bucket_sums(logits, EDGES).membership
    return {
        "mass_flow": change,
        "token": change.gather(-1, y),
        "log_prob": (after.log() - before.log()).gather(-1, y),
        "others": change.scatter(-1, y, 0),
        "buckets": sum_by_bucket(change, membership, len(EDGES) + 1),
    }


def weights_for(tokens: torch.Tensor) -> torch.Tensor:
    weight = torch.randn(len(tokens), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.where(weight.abs() < 0.2, 1.0, weight)


def test_first_order_laws_leave_a_second_order_residual() -> None:
    logits, tokens = dense.rows("random")
    weight = weights_for(tokens)
    steps = torch.logspace(-3.5, -2, 6, dtype=torch.float64)
    logs = {name: [] for name in all_laws(logits, tokens, weight, 1.0)}
    for step in steps.tolist():
        truth = realised(logits, tokens, weight, step)
        for name, predicted in all_laws(logits, tokens, weight, step).items():
            logs[name].append((truth[name] - predicted).norm(dim=-1).log())
    x = steps.log() - steps.log().mean()
    for name, residuals in logs.items():
        slopes = (x[:, None] * torch.stack(residuals)).sum(0) / (x * x).sum()
        assert float(slopes.median()) == pytest.approx(2, abs=0.1), name


@pytest.mark.parametrize("kind", ["uniform", "tied", "peaked"])
def test_first_order_laws_in_degenerate_rows(kind: str) -> None:
    logits, tokens = dense.rows(kind)
    weight = weights_for(tokens)
    # |d²π_v/dη²| ≤ π_v·osc(Δz)² with osc ≤ 2|w|; summed over tokens and for log π the same bound holds. The slack is
    # the rounding of the plain differences, in log π of tokens with little mass.
    bound = 4 * weight.square()
    for step in (1e-2, 1e-3, 1e-4):
        truth = realised(logits, tokens, weight, step)
        for name, predicted in all_laws(logits, tokens, weight, step).items():
            residual = (truth[name] - predicted).norm(dim=-1)
            assert (residual <= bound * step**2 + 1e-14).all(), name


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("token", [2, 0, 5])
def test_saturated_flow_against_mpmath(gap: float, token: int) -> None:
    row, y = saturated_row(gap), torch.tensor(token)
    before = mp.softmax(row.tolist())
    for weight, step in ((1.0, 0.5), (-2.0, 3.0), (1.0, 1e-6)):
        after = mp.stepped(row.tolist(), token, weight, step)
        flow = mass_flow(row, y, weight, step, exact=True)
        for value, p, q in zip(flow, before, after, strict=True):
            assert abs(mp.ctx.mpf(float(value)) - (q - p)) <= 1e-10 * abs(q - p)
    slope = mp.derivative(lambda probs: probs, row.tolist(), token)
    stats = dense_statistics(row, y)
    for value, exact in zip(mass_flow(row, y, -2.0, 0.5), slope, strict=True):
        assert abs(mp.ctx.mpf(float(value)) + exact) <= 1e-10 * abs(exact)
    assert abs(mp.ctx.mpf(float(token_prob_change(stats, 1.0, 1.0))) - slope[token]) <= 1e-10 * abs(slope[token])
    log_slope = slope[token] / before[token]
    assert abs(mp.ctx.mpf(float(log_prob_change(stats, 1.0, 1.0))) - log_slope) <= 1e-10 * abs(log_slope)
    collision = mp.statistics(row.tolist(), token)["collision"]
    boundary = collision - before[token]
    assert abs(mp.ctx.mpf(float(squeeze_boundary(stats))) - boundary) <= 1e-10 * abs(boundary)


@pytest.mark.parametrize("kind", ["random", "uniform", "tied"])
@pytest.mark.parametrize("step", [1e-3, 1.0, 30.0, 2000.0])
def test_exact_flow_is_the_difference_of_two_softmaxes(kind: str, step: float) -> None:
    logits, tokens = dense.rows(kind)
    weight = weights_for(tokens)
    flow = mass_flow(logits, tokens, weight, step, exact=True)
    error = (flow - realised(logits, tokens, weight, step)["mass_flow"]).abs().max()
    assert error <= 1e-13 * max(1.0, step)  # Δz itself is rounded at the size of the step


def test_bucket_flow_without_the_tokens_bucket_holds_for_the_others() -> None:
    logits, tokens = dense.rows("random")
    weight = weights_for(tokens)
    stats, sums = dense_statistics(logits, tokens), bucket_sums(logits, EDGES)
    dense_flow = sum_by_bucket(mass_flow(logits, tokens, weight, 1.0), sums.membership, len(EDGES) + 1)
    flow = bucket_flow(sums.mass, sums.mass_sq, stats, weight, 1.0)
    own = torch.nn.functional.one_hot(sums.membership.gather(-1, tokens[:, None]).squeeze(-1).long(), len(EDGES) + 1)
    assert ((flow - dense_flow) * (1 - own)).abs().max() <= 1e-15
    assert ((flow - dense_flow) * own).abs().max() > 1e-3


def test_bucket_flow_of_saturated_float32_records() -> None:
    row = saturated_row(20.0)
    stats32 = dense_statistics(row.float(), torch.tensor(2))
    sums = bucket_sums(row.float(), (1, 3))
    flow = bucket_flow(sums.mass, sums.mass_sq, stats32, 1.0, 1.0, token_bucket=torch.tensor(0))
    exact = sum_by_bucket(mass_flow(row, torch.tensor(2), 1.0, 1.0), sums.membership, 3)
    torch.testing.assert_close(flow.double(), exact, rtol=2e-6, atol=0)


def test_the_squeeze_boundary_parts_winners_from_losers() -> None:
    logits, tokens = dense.rows("random")
    probs = torch.softmax(logits, -1)
    flow = mass_flow(logits, tokens, -1.0, 1.0)  # NSR: unsampled tokens above the boundary rise
    above = probs > squeeze_boundary(dense_statistics(logits, tokens))[:, None]
    unsampled = torch.ones_like(above).scatter(-1, tokens[:, None], False)
    assert torch.equal((flow > 0) & unsampled, above & unsampled)
    assert (above & unsampled).any()
    assert (~above & unsampled).any()


@pytest.mark.parametrize("step", [0.01, 1.0, 50.0, 5000.0])
def test_rises_is_the_sign_of_the_exact_change(step: float) -> None:
    logits, _ = dense.rows("random", n=100)
    generator = torch.Generator().manual_seed(8)
    delta = step * torch.randn(logits.shape, generator=generator, dtype=torch.float64) + 7 * step
    change = torch.log_softmax(logits + delta, -1) - torch.log_softmax(logits, -1)
    clear = change.abs() > 1e-10
    assert torch.equal(rises(logits, delta)[clear], (change > 0)[clear])
    assert clear.double().mean() > 0.99
    difference = torch.softmax(logits + delta, -1) - torch.softmax(logits, -1)
    torch.testing.assert_close(logit_step_flow(logits, delta, exact=True), difference, rtol=0, atol=1e-11)


def test_a_shift_of_all_logits_makes_nothing_rise() -> None:
    logits, _ = dense.rows("random", n=10)
    assert not rises(logits, torch.full_like(logits, 0.3)).any()
    assert not rises(torch.tensor([0.0, -torch.inf]), torch.tensor([0.0, 1.0])).any()


prob_rows = st.lists(st.floats(-8, 8), min_size=2, max_size=8, unique=True)


@settings(max_examples=60, deadline=None)
@given(prob_rows, st.floats(0.05, 3), st.data())
def test_flow_identities(row: list[float], size: float, data: st.DataObject) -> None:
    y = data.draw(st.integers(0, len(row) - 1))
    z, token = torch.tensor(row, dtype=torch.float64), torch.tensor(y)
    probs = torch.softmax(z, -1)
    first = mass_flow(z, token, -1.0, size)
    exact = mass_flow(z, token, -1.0, size, exact=True)
    assert abs(float(first.sum())) <= 1e-15 * (1 + size)
    assert abs(float(exact.sum())) <= 1e-15 * (1 + size)
    torch.testing.assert_close(mass_flow(z, token, 2.0, size), -2 * first, rtol=1e-13, atol=0)
    torch.testing.assert_close(mass_flow(z + 3, token, -1.0, size), first, rtol=1e-12, atol=1e-17)
    # d log(π_u/π_v) = −ηw(π_u − π_v) among the unsampled, and Δz makes that exact for any step
    rest = [v for v in range(len(row)) if v != y]
    log_change = first / probs
    finite = torch.log1p(exact / probs)
    for u in rest:
        for v in rest:
            gained = size * float(probs[u] - probs[v])
            assert float(log_change[u] - log_change[v]) == pytest.approx(gained, abs=1e-13)
            assert float(finite[u] - finite[v]) == pytest.approx(gained, abs=1e-11)
            if z[u] > z[v]:  # so NSR never reorders the unsampled
                assert float((probs + exact)[u] - (probs + exact)[v]) >= -1e-15


def test_positive_samples_reorder_at_large_steps() -> None:
    z = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    probs = torch.softmax(z, -1) + mass_flow(z, torch.tensor(2), 1.0, 5.0, exact=True)
    assert float(probs[0]) > float(probs[1])


def test_edges_of_the_vocabulary() -> None:
    assert mass_flow(torch.zeros(1), torch.tensor(0), 1.0, 1.0).tolist() == [0.0]
    assert mass_flow(torch.zeros(1), torch.tensor(0), 1.0, 1.0, exact=True).tolist() == [0.0]
    logits = torch.randn(151_936, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = mass_flow(logits, torch.tensor(9), -1.0, 0.1)
    one_hot = torch.zeros_like(logits).scatter(0, torch.tensor(9), 1.0)
    jvp = dense.derivative(lambda z: torch.softmax(z, -1), logits, -0.1 * (one_hot - torch.softmax(logits, -1)))
    torch.testing.assert_close(flow, jvp, rtol=1e-9, atol=1e-20)


def test_masked_tokens_stay_masked() -> None:
    z = torch.tensor([0.0, -torch.inf, 1.0], dtype=torch.float64)
    for exact in (False, True):
        flow = mass_flow(z, torch.tensor(0), -1.0, 2.0, exact=exact)
        expected = mass_flow(z[[0, 2]], torch.tensor(0), -1.0, 2.0, exact=exact)
        torch.testing.assert_close(flow, torch.stack([expected[0], torch.tensor(0.0).double(), expected[1]]))


def test_results_carry_no_graph() -> None:
    z = torch.zeros(3, requires_grad=True)
    assert not mass_flow(z, torch.tensor(0), torch.tensor(1.0, requires_grad=True), 1.0, exact=True).requires_grad
    assert not logit_gradient(z, torch.tensor(0), torch.tensor(1.0, requires_grad=True)).requires_grad


def test_bad_input_is_named() -> None:
    logits, tokens = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    stats = dense_statistics(logits, tokens)
    with pytest.raises(ValueError, match=r"step: expected one number or one for each token, shape \(3,\), got \(2,\)"):
        mass_flow(logits, tokens, 1.0, torch.ones(2))
    with pytest.raises(ValueError, match=r"weight: expected finite numbers, got inf$"):
        token_prob_change(stats, torch.inf, 1.0)
    with pytest.raises(ValueError, match=r"delta_logits: expected the shape of logits, \(3, 4\), got \(4,\)"):
        rises(logits, torch.zeros(4))
    with pytest.raises(ValueError, match="delta_logits: expected finite numbers"):
        logit_step_flow(logits, torch.full((3, 4), torch.nan))
    with pytest.raises(ValueError, match=r"probs: expected shape \(3,\) and an axis of tokens, got \(2, 5\)"):
        other_prob_change(torch.zeros(2, 5), stats, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"bucket_mass, bucket_mass_sq: expected both of shape \(3,\) and an axis of"):
        bucket_flow(torch.zeros(3, 2), torch.zeros(3, 1), stats, 1.0, 1.0)
