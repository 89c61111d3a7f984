"""The scalar part of a gradient on logits against dense least squares in float64."""

from __future__ import annotations

import pytest
import torch

from analysis.probes.logit_gradients import scalar_part
from analysis.token_stats import token_statistics


def direction(z, y):
    """e_y − π without a difference from one."""
    d = -torch.softmax(z.double(), -1)
    d[y] = 0
    d[y] = -d.sum()
    return d


def directions(z, y):
    return torch.stack([direction(row, token) for row, token in zip(z, y.tolist(), strict=True)])


def dense(logits, gradient, tokens, temperature):
    """w and residual with e_y − π written out, one row at a time in float64."""
    weights, residuals = [], []
    for z, g, y in zip(logits.double(), gradient.double(), tokens.tolist(), strict=True):
        d = direction(z / temperature, y)
        w = -temperature * torch.dot(g, d) / torch.dot(d, d)
        weights.append(w)
        residuals.append((g + w * d / temperature).norm() / g.norm())
    return torch.stack(weights), torch.stack(residuals)


def rows(vocab: int, n: int = 70, spread: float = 4.0, seed: int = 0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = spread * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    y = torch.randint(vocab, (n,), generator=generator)
    w = torch.randn(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    return z.to(dtype), y, w, noise


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocab", [2, 37, 5000])
@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3])
def test_against_dense_least_squares(vocab, temperature, size):
    z, y, w, noise = rows(vocab)
    d = directions(z / temperature, y)
    gradient = -w[:, None] * d / temperature + size * noise
    stats = token_statistics(z, y, temperature=temperature)
    weight, residual, _ = scalar_part(z, gradient, y, stats, torch.arange(len(y)), temperature=temperature)
    expected, left = dense(z, gradient, y, temperature)
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(residual, left, rtol=1e-7, atol=1e-12)
    if not size:
        torch.testing.assert_close(weight, w, rtol=1e-9, atol=1e-11)


def test_rows_are_chosen_and_slices_need_no_copy():
    z, y, w, _ = rows(300, n=12)
    d = directions(z, y)
    logits, gradient = (x.reshape(3, 4, 300) for x in (z, -w[:, None] * d))
    keep = torch.tensor([1, 5, 10])
    stats = token_statistics(z, y).map(lambda x: x[keep])
    weight, _, _ = scalar_part(logits, gradient, y[keep], stats, keep)
    torch.testing.assert_close(weight, w[keep])
    head = keep // 4 * 3 + keep % 4  # the same rows among logits[:, :-1]; row 5 is (1, 1), row 10 is (2, 2)
    weight, _, _ = scalar_part(logits[:, :-1], gradient[:, :-1], y[keep], stats, head)
    torch.testing.assert_close(weight, w[keep])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    """The error is that of the gradient as rounded, and of z − log Z in float32, which rounds by eps of its size."""
    z, y, w, _ = rows(5000, dtype=dtype)
    d = directions(z, y)
    gradient = (-w[:, None] * d).to(dtype)
    weight, residual, _ = scalar_part(z, gradient, y, token_statistics(z, y), torch.arange(len(y)))
    slack = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * z.abs().max().item()
    assert residual.max() < slack
    torch.testing.assert_close(weight, w, rtol=slack, atol=0)


@pytest.mark.parametrize("gap", [5.0, 12.0, 16.0, 20.0, 27.6, 35.0])
@pytest.mark.parametrize("vocab", [3, 1000])
def test_confident_tokens(gap: float, vocab: int):
    """1 − π_y from 0.9 to 1e-15 in float32: autograd's G_y is rounding there, and the other entries tell the weight.

    Above 1000·ε the own entry is kept: its error ε/(1000·ε) is the largest one.
    """
    z = torch.zeros(1, vocab)
    z[0, 1] = gap
    z.requires_grad_()
    y = torch.tensor([1])
    (-2.0 * z.log_softmax(-1)[0, 1]).backward()
    weight, residual, _ = scalar_part(z.detach(), z.grad, y, token_statistics(z.detach(), y), torch.tensor([0]))
    assert weight.item() == pytest.approx(2, rel=2e-3)
    assert residual.item() < 2e-3


def test_a_penalty_on_log_z_is_not_rounding():
    """The row sum of its gradient is c, far more than rounding: it belongs to the loss, and the own entry is kept."""
    z = torch.zeros(1, 1000)
    z[0, 3] = 27.6
    z.requires_grad_()
    (-2.0 * z.log_softmax(-1)[0, 3] + 0.1 * z.logsumexp(-1)[0]).backward()
    stats = token_statistics(z.detach(), torch.tensor([3]))
    weight, _, _ = scalar_part(z.detach(), z.grad, torch.tensor([3]), stats, torch.tensor([0]))
    assert weight.item() < -1e6  # least squares with G_y = c


def test_nothing_flows():
    z, y, _, _ = rows(37)
    weight, residual, _ = scalar_part(z, torch.zeros_like(z), y, token_statistics(z, y), torch.arange(len(y)))
    assert (weight == 0).all()
    assert residual.isnan().all()
    weight, residual, _ = scalar_part(z, z, y[:0], token_statistics(z[:0], y[:0]), torch.arange(0))
    assert weight.shape == residual.shape == (0,)


def test_masked_logits():
    z, y, w, _ = rows(37)
    z[:, 5] = -torch.inf
    y[y == 5] = 6
    d = directions(z, y)
    weight, residual, _ = scalar_part(z, -w[:, None] * d, y, token_statistics(z, y), torch.arange(len(y)))
    torch.testing.assert_close(weight, w)
    assert residual.max() < 1e-12
