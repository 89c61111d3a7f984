"""Token statistics against 400-digit arithmetic, dense float64 formulas and their own identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import TokenStatistics, dense_statistics
from tests.reference import softmax_dense as dense
from tests.reference import softmax_mp as mp

FIELDS = (
    "log_prob",
    "one_minus_prob",
    "entropy",
    "collision",
    "collision_log_prob",
    "direction_norm",
    "argmax_prob",
    "covariance",
)
GAPS = (16.0, 20.0, 30.0, 40.0, 60.0, 80.0, 300.0)


def saturated_row(gap: float, dtype: torch.dtype = torch.float64, offset: float = 0.0) -> torch.Tensor:
    """Token 2 leads by `gap`; two of the others are tied, one lies far below."""
    below = torch.tensor([0.0, 1.3, -gap, 0.0, 0.2, 7.0], dtype=torch.float64) + gap
    return (offset - below).to(dtype)


def relative_error(value: torch.Tensor, exact: object) -> float:
    return float(abs(mp.ctx.mpf(float(value)) - exact) / abs(exact))


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("token", [2, 0, 3, 5])
def test_saturated_rows_against_mpmath(gap: float, token: int) -> None:
    for offset in (0.0, -1000.0):
        row = saturated_row(gap, offset=offset)
        stats = dense_statistics(row, torch.tensor(token))
        for name, exact in mp.statistics(row.tolist(), token).items():
            assert relative_error(getattr(stats, name), exact) < 1e-10, name


@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_temperature_against_mpmath(temperature: float) -> None:
    row = saturated_row(30.0)
    for token in (2, 1):
        stats = dense_statistics(row, torch.tensor(token), temperature=temperature, top_k=3)
        for name, exact in mp.statistics(row.tolist(), token, temperature).items():
            assert relative_error(getattr(stats, name), exact) < 1e-10, name
        assert stats.top_probs is not None
        probs = sorted(mp.softmax(row.tolist(), temperature), reverse=True)
        assert all(relative_error(p, e) < 1e-12 for p, e in zip(stats.top_probs, probs[:3], strict=True))


@pytest.mark.parametrize("kind", ["random", "uniform", "tied"])
def test_generic_rows_against_dense_formulas(kind: str) -> None:
    logits, tokens = dense.rows(kind)
    stats = dense_statistics(logits, tokens)
    for name, expected in dense.statistics(logits, tokens).items():
        torch.testing.assert_close(getattr(stats, name), expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("gap", [0.0, 2.0, 16.0, 40.0, 60.0, 80.0])
def test_float32_against_mpmath(gap: float) -> None:
    # Rounding of t = z − z_runner-up and of exp costs a few float32 ulps (6e-8), growing with |t| of tokens that matter
    # little. Here |t| ≤ 8.3.
    row = saturated_row(gap, torch.float32)
    for token in (2, 0, 5):
        stats = dense_statistics(row, torch.tensor(token))
        for name, exact in mp.statistics(row.tolist(), token).items():
            value = getattr(stats, name)
            assert value.dtype == torch.float32
            if name == "covariance" and float(abs(exact)) < 1e-38:
                continue  # not representable in float32: it is of the order of (1 − π)²
            assert relative_error(value, exact) < 1e-6, (name, token)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("gap", [0.1, 3.0, 40.0, 87.0, 300.0])
def test_the_stated_accuracy_on_rows_that_do_not_round_well(gap: float, temperature: float) -> None:
    """Logits whose differences round: (8 + g)·eps in float64, 5e-7 in float32; the covariance relative to its terms."""
    generator = torch.Generator().manual_seed(int(10 * gap))
    for vocab in (2, 6, 40):
        logits = 2 * torch.randn(3, vocab, generator=generator, dtype=torch.float64)
        top = torch.randint(0, vocab, (3,), generator=generator)
        logits[torch.arange(3), top] = logits.amax(-1) + gap * temperature
        tokens = torch.stack([top[0], logits[1].argmin(), logits[2].topk(2).indices[1]])
        for dtype in (torch.float64, torch.float32):
            if dtype == torch.float32 and gap > 87:
                continue
            bound = (8 + gap) * torch.finfo(dtype).eps if dtype == torch.float64 else 5e-7
            stats = dense_statistics(logits.to(dtype), tokens, temperature=temperature)
            for row, token in enumerate(tokens.tolist()):
                exact = mp.statistics(logits[row].to(dtype).tolist(), token, temperature)
                h, p = exact["entropy"], mp.ctx.exp(exact["log_prob"])
                terms = p * abs(exact["log_prob"] + h) + abs(exact["collision_log_prob"] + exact["collision"] * h)
                for name, value in exact.items():
                    size = terms if name == "covariance" else abs(value)
                    if size > (1e-37 if dtype == torch.float32 else 0):
                        error = abs(mp.ctx.mpf(float(getattr(stats, name)[row])) - value) / size
                        assert error < bound, (name, vocab, row, dtype)


def test_float32_is_at_least_as_good_as_the_naive_formulas() -> None:
    logits, tokens = dense.rows("random", n=300, vocab=108)
    logits = (logits * 3).float()
    exact = dense_statistics(logits.double(), tokens)
    stats, naive = dense_statistics(logits, tokens), dense.statistics(logits, tokens)
    for name in FIELDS:
        truth = getattr(exact, name)
        error = (getattr(stats, name).double() - truth).abs()
        naive_error = (naive[name].double() - truth).abs()
        assert error.max() <= naive_error.max() + 1e-7 * truth.abs().max(), name
        if name not in ("covariance", "collision_log_prob"):
            assert (error / truth.abs()).max() < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_promoted(dtype: torch.dtype) -> None:
    logits, tokens = dense.rows("random", n=30)
    half = logits.to(dtype)
    stats, promoted = dense_statistics(half, tokens, top_k=3), dense_statistics(half.float(), tokens, top_k=3)
    for name in (*FIELDS, "top_probs"):
        assert getattr(stats, name).dtype == torch.float32
        assert torch.equal(getattr(stats, name), getattr(promoted, name)), name


def test_one_token_vocabulary() -> None:
    stats = dense_statistics(torch.tensor([[3.0]]), torch.tensor([0]), top_k=5, rank=True)
    for name, expected in {
        "log_prob": 0,
        "one_minus_prob": 0,
        "entropy": 0,
        "collision": 1,
        "collision_log_prob": 0,
        "direction_norm": 0,
        "argmax_token": 0,
        "argmax_prob": 1,
        "token_rank": 0,
        "covariance": 0,
    }.items():
        assert getattr(stats, name).tolist() == [expected], name
    assert stats.top_ids is not None
    assert stats.top_ids.tolist() == [[0]]


def test_two_token_vocabulary() -> None:
    stats = dense_statistics(torch.tensor([0.0, math.log(3.0)], dtype=torch.float64), torch.tensor(0))
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    expected = {
        "log_prob": -math.log(4),
        "one_minus_prob": 0.75,
        "entropy": entropy,
        "collision": 0.625,
        "direction_norm": 0.75 * math.sqrt(2),
        "argmax_prob": 0.75,
    }
    for name, value in expected.items():
        assert float(getattr(stats, name)) == pytest.approx(value, rel=1e-14), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_vocabulary(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 151_936, generator=generator, dtype=torch.float64)).to(dtype)
    logits[1, 77] += 30
    tokens = torch.tensor([5, 77])
    stats = dense_statistics(logits, tokens, top_k=4, rank=True)
    tolerance = 1e-11 if dtype == torch.float64 else 5e-6
    for row, token in enumerate(tokens.tolist()):
        values, largest = logits[row].tolist(), float(logits[row].max())
        z = [x - largest for x in values]
        log_total = math.log(math.fsum(map(math.exp, z)))
        assert float(stats.log_prob[row]) == pytest.approx(z[token] - log_total, rel=1e-5, abs=1e-12)
        others = math.fsum(math.exp(x - log_total) for v, x in enumerate(z) if v != token)
        assert float(stats.one_minus_prob[row]) == pytest.approx(others, rel=tolerance)
        entropy = -math.fsum(math.exp(x - log_total) * (x - log_total) for x in z)
        assert float(stats.entropy[row]) == pytest.approx(entropy, rel=tolerance)
        squares = math.fsum(math.exp(2 * (x - log_total)) for v, x in enumerate(z) if v != token)
        assert float(stats.direction_norm[row]) == pytest.approx(math.sqrt(others**2 + squares), rel=tolerance)
        assert stats.token_rank is not None
        assert int(stats.token_rank[row]) == sum(x > z[token] for x in z) + z[:token].count(z[token])


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 1.0, 1.0]]).repeat(5, 1)
    stats = dense_statistics(logits, torch.arange(5), top_k=4, rank=True)
    assert stats.argmax_token.tolist() == [1] * 5
    assert stats.token_rank is not None
    assert stats.token_rank.tolist() == [2, 0, 1, 3, 4]
    assert stats.top_ids is not None
    assert stats.top_ids.tolist() == [[1, 2, 0, 3]] * 5


@pytest.mark.parametrize("k", [1, 3, 24, 99])
def test_top_tokens_against_a_stable_sort(k: int) -> None:
    logits, tokens = dense.rows("random", n=50)
    logits = logits.round()  # many ties
    stats = dense_statistics(logits, tokens, top_k=k, rank=True)
    order = [sorted(range(24), key=lambda v: (-row[v], v)) for row in logits.tolist()]
    assert stats.top_ids is not None
    assert stats.top_probs is not None
    assert stats.token_rank is not None
    assert stats.top_ids.tolist() == [ids[:k] for ids in order]
    assert stats.token_rank.tolist() == [ids.index(y) for ids, y in zip(order, tokens.tolist(), strict=True)]
    torch.testing.assert_close(stats.top_probs, torch.softmax(logits, -1).gather(-1, stats.top_ids), rtol=1e-12, atol=0)


def test_masked_tokens_count_for_nothing() -> None:
    logits, tokens = dense.rows("random", n=20)
    masked = torch.cat([logits, torch.full((20, 3), -torch.inf, dtype=torch.float64)], -1)
    for name in FIELDS:
        a, b = getattr(dense_statistics(logits, tokens), name), getattr(dense_statistics(masked, tokens), name)
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    alone = dense_statistics(torch.tensor([-torch.inf, 0.0, -torch.inf]), torch.tensor(1))
    assert float(alone.entropy) == 0
    assert float(alone.direction_norm) == 0


def test_leading_shapes_and_empty_input() -> None:
    logits, tokens = dense.rows("random", n=12)
    flat, block = (
        dense_statistics(logits, tokens, rank=True, top_k=2),
        dense_statistics(logits.reshape(2, 6, 24), tokens.reshape(2, 6), rank=True, top_k=2),
    )
    for name in TokenStatistics.__dataclass_fields__:
        a, b = getattr(flat, name), getattr(block, name)
        if name == "probs_of":  # not of the dense form
            assert (a, b) == (None, None)
            continue
        assert torch.equal(a, b.reshape(a.shape)), name
        assert b.shape[:2] == (2, 6)
    assert dense_statistics(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).log_prob.shape == (0,)


def test_no_gradient_and_no_change_of_the_input() -> None:
    logits, tokens = dense.rows("random", n=12)
    logits.requires_grad_()
    before = logits.detach().clone()
    stats = dense_statistics(logits, tokens, rank=True, top_k=2)
    tensors = [getattr(stats, name) for name in TokenStatistics.__dataclass_fields__ if name != "probs_of"]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert torch.equal(logits, before)


BAD_INPUT = {
    r"logits: expected finite numbers .*got nan at index \(1, 2\)": lambda z, y: (_with(z, (1, 2), torch.nan), y),
    r"logits: expected finite numbers .*got inf at index \(0, 3\)": lambda z, y: (_with(z, (0, 3), torch.inf), y),
    r"tokens: the sampled token 1 at index 2 is masked": lambda z, y: (_with(z, (2, 1), -torch.inf), y),
    r"logits: every token of the row at index 1 is masked": lambda z, y: (_with(z, (1,), -torch.inf), y),
    r"tokens: expected ids in \[0, 4\), got 4 at index 1": lambda z, y: (z, _with(y, (1,), 4)),
    r"tokens: expected ids in \[0, 4\), got -1 at index 2": lambda z, y: (z, _with(y, (2,), -1)),
    r"tokens: expected one id for each row of logits, shape \(3,\), got \(2,\)": lambda z, y: (z, y[:2]),
    r"tokens: expected integer ids, got torch.float32": lambda z, y: (z, y.float()),
    r"logits: expected a floating-point tensor, got torch.int64": lambda z, y: (z.long(), y),
    r"logits: expected shape \(…, vocab\) with at least one token, got \(3, 0\)": lambda z, y: (z[:, :0], y),
}


def _with(tensor: torch.Tensor, index: tuple[int, ...], value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_named(message: str) -> None:
    logits, tokens = BAD_INPUT[message](torch.zeros(3, 4), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=message):
        dense_statistics(logits, tokens)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        dense_statistics(torch.zeros(2), torch.tensor(0), temperature=temperature)


def test_bad_top_k() -> None:
    with pytest.raises(ValueError, match="top_k: expected a whole number of at least 0, got -1"):
        dense_statistics(torch.zeros(2), torch.tensor(0), top_k=-1)


logit_rows = st.lists(st.floats(-30, 30, allow_subnormal=False), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(logit_rows, st.floats(-20, 20), st.randoms(use_true_random=False))
def test_shift_and_permutation_invariance(row: list[float], shift: float, random: object) -> None:
    order = list(range(len(row)))
    random.shuffle(order)  # type: ignore[attr-defined]
    z = torch.tensor(row, dtype=torch.float64)
    base = dense_statistics(z, torch.tensor(0), rank=False)
    moved = dense_statistics(z[order] + shift, torch.tensor(order.index(0)))
    for name in FIELDS:
        # Adding the shift rounds the logits to 1e-14, which moves probabilities by that much relative; the covariance
        # is a difference of moments of at most 30 nats.
        atol = 1e-12 if name == "covariance" else 1e-300
        torch.testing.assert_close(getattr(moved, name), getattr(base, name), rtol=1e-11, atol=atol, msg=name)


@settings(max_examples=60, deadline=None)
@given(logit_rows)
def test_moments_are_those_of_a_distribution(row: list[float]) -> None:
    z = torch.tensor(row, dtype=torch.float64).repeat(len(row), 1)
    stats = dense_statistics(z, torch.arange(len(row)))
    assert float(stats.prob.sum()) == pytest.approx(1, rel=1e-12)
    assert float((stats.prob**2).sum()) == pytest.approx(float(stats.collision[0]), rel=1e-12)
    assert float(-(stats.prob * stats.log_prob).sum()) == pytest.approx(float(stats.entropy[0]), rel=1e-9, abs=1e-15)
    # the score has zero mean, Σ_y π_y (e_y − π) = 0, and the covariance is linear in it
    assert float((stats.prob * stats.covariance).sum()) == pytest.approx(0, abs=1e-12)
