"""Where first order stops to be good enough: the first crossing, against a dense scan of all smaller steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.laws import first_order_reach

FARTHEST = 2.0**20
POINTS = 400


def off_by(z: np.ndarray, y: np.ndarray, w: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Σ|exact − linear| / Σ|exact| of n rows at steps (n, points), from the definition in 80-bit numbers."""
    z, w, eta = (x.astype(np.longdouble) for x in (z, w, eta))
    unnormalised = np.exp(z - z.max(-1, keepdims=True))
    pi = unnormalised / unnormalised.sum(-1, keepdims=True)
    direction = -w[:, None] * pi
    direction[np.arange(len(z)), y] += w
    moved = (z - z.max(-1, keepdims=True))[:, None] + eta[..., None] * direction[:, None]
    after = np.exp(moved - moved.max(-1, keepdims=True))
    exact = after / after.sum(-1, keepdims=True) - pi[:, None]
    mean = (pi * direction).sum(-1, keepdims=True)
    linear = eta[..., None] * (pi * (direction - mean))[:, None]
    return np.abs(exact - linear).sum(-1) / np.abs(exact).sum(-1)


def cases(vocab: int, kind: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([vocab, len(kind)])
    z = rng.normal(size=(n, vocab)) * rng.uniform(0.3, 3, size=(n, 1))
    if kind == "ties":
        z = z.round()
    elif kind == "saturated":
        z[:, 0] = z.max(-1) + rng.uniform(3, 12, size=n)
    return z, rng.integers(0, vocab, n), rng.choice([-1, 1], n) * np.exp(rng.normal(size=n))


@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["normal", "ties", "saturated"])
@pytest.mark.parametrize("vocab", [2, 3, 6])
def test_no_smaller_step_is_off_by_more(vocab: int, kind: str, tolerance: float) -> None:
    z, y, w = cases(vocab, kind, 120)
    reach = first_order_reach(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(w), tolerance=tolerance)
    eta = reach.numpy()
    found = eta < FARTHEST * 0.999
    assert found.mean() > 0.5
    z, y, w, eta = z[found], y[found], w[found], eta[found]
    # Σ|exact| must be well above the rounding of π, 5e-20: cases that hardly move are left to the bound at their reach
    scan = np.linspace(1e-2, 1 - 1e-6, POINTS) * eta[:, None]
    assert (off_by(z, y, w, scan) < tolerance * (1 + 1e-7)).all()
    sides = off_by(z, y, w, eta[:, None] * np.array([1 - 1e-6, 1 + 1e-6]))
    assert (sides[:, 0] <= tolerance * (1 + 1e-7)).all()
    assert (sides[:, 1] >= tolerance * (1 - 1e-7)).all()


def test_the_first_crossing_counts_where_there_are_several() -> None:
    """π_y falls faster than its tangent at first, crosses it again, and levels off: off by a tenth at 1.166, within a
    tenth again farther out, and off for good at 36.9."""
    z, y, w = np.array([[3.9477, 1.9823]]), np.array([0]), np.array([-0.9871])
    reach = first_order_reach(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(w))
    assert float(reach[0]) == pytest.approx(1.1658, abs=1e-4)
    above = off_by(z, y, w, np.linspace(1.17, 60, 20_000)[None]) > 0.1
    assert np.flatnonzero(np.diff(above[0].astype(int))).size >= 2  # it comes back, and leaves again


def test_a_token_that_cannot_move_has_no_reach() -> None:
    saturated = torch.tensor([[200.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    reach = first_order_reach(saturated, torch.tensor([0, 0, 0]), torch.tensor([-1.0, 0.0, 1.0]))
    assert reach[:2].tolist() == [FARTHEST, FARTHEST]
    assert float(reach[2]) < 10
    assert first_order_reach(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), 1.0).tolist() == [FARTHEST] * 4
    masked = torch.tensor([1.0, 0.0, -torch.inf], dtype=torch.float64)
    torch.testing.assert_close(
        first_order_reach(masked, torch.tensor(1), 1.0), first_order_reach(masked[:2], torch.tensor(1), 1.0)
    )
