"""Where the laws change sign as a sampled token's probability goes from 0 to 1, and how far first order reaches.

The other tokens keep their proportions q (a law without y), so that π_v = (1 − π_y)q_v. With c_q = Σq², H_q and
S_q = Σq² log q,

    c = π_y² + (1 − π_y)²·c_q,    H = h(π_y) + (1 − π_y)·H_q,
    S = π_y² log π_y + (1 − π_y)²(S_q + c_q log(1 − π_y)),

the squeeze boundary is c − π_y, and the entropy falls under PSR (rises under NSR) where
Cov = π_y(log π_y + H) − S − cH > 0. Below the sign boundary, the root of Cov, a positive sample raises entropy; it lies
above e^{−H}, as Cov < 0 wherever log π_y + H < 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .checks import check_tokens
from .gradient import logit_gradient
from .mass_flow import logit_step_flow

__all__ = ["BoundaryCurves", "boundary_curves", "entropy_sign_boundary", "first_order_reach"]


class BoundaryCurves(NamedTuple):
    """Along `prob` = π_y, (n,) each."""

    prob: np.ndarray
    squeeze: np.ndarray  # c − π_y; negative: every alternative moves against y
    against: np.ndarray  # share of the alternatives' mass that moves against y
    covariance: np.ndarray  # dH = −ηw·covariance, nats
    entropy: np.ndarray  # H, nats


def boundary_curves(rest: np.ndarray, probs: np.ndarray) -> BoundaryCurves:
    """The boundaries for alternatives in the proportions `rest` (m,), at each π_y of `probs` in (0, 1).

    Raises UsageError for proportions that are no law and probabilities outside (0, 1).

    >>> curves = boundary_curves(np.full(99, 1 / 99), np.array([0.01, 0.5]))
    >>> bool(abs(curves.squeeze[0]) < 1e-12), curves.against.round(6).tolist()  # uniform: c = π_y
    (True, [1.0, 1.0])
    """
    q = _law(rest)
    y = np.asarray(probs, dtype=np.float64)
    if not ((y > 0) & (y < 1)).all():
        raise UsageError(f"probs: expected numbers strictly between 0 and 1, got {y.min():g} to {y.max():g}")
    c = y**2 + (1 - y) ** 2 * (q**2).sum()
    squeeze = c - y
    above = (1 - y)[:, None] * q > squeeze[:, None]
    cov, h = _covariance(y, q)
    return BoundaryCurves(y, squeeze, (above * q).sum(1), cov, h)


def entropy_sign_boundary(rest: np.ndarray) -> float:
    """π_y below which a positive sample raises the entropy (and a negative one lowers it), for these alternatives.

    >>> round(entropy_sign_boundary(np.full(99, 1 / 99)), 6)  # uniform: the law is uniform at π_y = 1/100
    0.01
    """
    from scipy.optimize import brentq

    q = _law(rest)
    surely_below = 0.5 * np.exp(np.sum(q * np.log(q)))
    return float(brentq(lambda y: _covariance(np.array([y]), q)[0][0], surely_below, 0.99, xtol=1e-15))


def _law(rest: np.ndarray) -> np.ndarray:
    q = np.asarray(rest, dtype=np.float64)
    if q.ndim != 1 or not (q > 0).all() or abs(q.sum() - 1) > 1e-6:
        raise UsageError(
            f"rest: expected positive proportions (m,) that sum to one, got shape {q.shape} and a sum of {q.sum():g}"
        )
    return q / q.sum()


def _covariance(y: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Cov, H). log π enters less its value for the alternatives' scale, log(1 − π_y), which drops out of Cov."""
    rest_h, rest_c, rest_s = -(q * np.log(q)).sum(), (q**2).sum(), (q**2 * np.log(q)).sum()
    log_odds = np.log(y) - np.log1p(-y)
    mean = y * log_odds - (1 - y) * rest_h  # E[log π − log(1 − π_y)]
    c = y**2 + (1 - y) ** 2 * rest_c
    second = y**2 * log_odds + (1 - y) ** 2 * rest_s
    return y * (log_odds - mean) - (second - c * mean), -mean - np.log1p(-y)


@torch.no_grad()
def first_order_reach(logits: Tensor, tokens: Tensor, weight: float | Tensor, *, tolerance: float = 0.1) -> Tensor:
    """The logit step η (…) at which first order is off by `tolerance`: ½Σ|exact − linear| = tolerance·½Σ|exact|.

    From 64 halvings in float64 of the interval [0, 2^20]; beyond it first order is exact enough for any use (a token
    that cannot move). The finite step is that of `mass_flow`.

    >>> first_order_reach(torch.zeros(2), torch.tensor(0), 1.0) > first_order_reach(
    ...     torch.zeros(2), torch.tensor(0), 1.0, tolerance=0.01)
    tensor(True)
    """
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance: expected a share between 0 and 1, got {tolerance}")
    check_tokens(logits, tokens)
    z = logits.double()
    direction = logit_gradient(z, tokens, weight)
    low = torch.zeros(tokens.shape, dtype=torch.float64, device=logits.device)
    high = torch.full_like(low, 2.0**20)
    for _ in range(64):
        middle = torch.where(low > 0, (low * high).sqrt(), high / 2**20)
        step = direction * middle.unsqueeze(-1)
        exact = logit_step_flow(z, step, exact=True)
        off = (exact - logit_step_flow(z, step)).abs().sum(-1) > tolerance * exact.abs().sum(-1)
        low, high = torch.where(off, low, middle), torch.where(off, middle, high)
    return low.to(logits.dtype)
