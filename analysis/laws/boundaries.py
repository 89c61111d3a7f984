"""Where the laws change sign as a sampled token's probability goes from 0 to 1.

The other tokens keep their proportions q, a distribution without y, so that π_v = (1 − π_y)q_v. With c_q = Σq², H_q
and S_q = Σq² log q,

    c = π_y² + (1 − π_y)²·c_q,    H = h(π_y) + (1 − π_y)·H_q,
    S = π_y² log π_y + (1 − π_y)²(S_q + c_q log(1 − π_y)),

the squeeze boundary is c − π_y, and the entropy falls under PSR (rises under NSR) where
Cov = π_y(log π_y + H) − S − cH > 0. Below the sign boundary, the root of Cov, a positive sample raises entropy; it lies
above e^{−H}, as Cov < 0 wherever log π_y + H < 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..common.arguments import check_numbers
from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index

__all__ = ["BoundaryCurves", "boundary_curves", "entropy_sign_boundary"]


@short_repr
class BoundaryCurves(NamedTuple):
    """The boundaries along `prob` = π_y."""

    prob: Float[np.ndarray, " n"]
    squeeze: Float[np.ndarray, " n"]  # c − π_y; where negative, every alternative moves against y
    against: Float[np.ndarray, " n"]  # fraction of the alternatives' mass that moves against y
    covariance: Float[np.ndarray, " n"]  # dH = −ηw·covariance, nats
    entropy: Float[np.ndarray, " n"]  # H, nats


def boundary_curves(rest: Float[np.ndarray, " m"], probs: Float[np.ndarray, " n"]) -> BoundaryCurves:
    """The boundaries for fixed proportions of the alternatives, at each probability π_y of the sampled token.

    Args:
        rest: proportions q of the alternatives, positive, with sum one.
        probs: values of π_y between 0 and 1.

    Returns:
        The curves, each of the length of `probs`.

    Raises:
        UsageError: proportions that are not a distribution, probabilities outside (0, 1).

    Source: derived here (†), the equations above.

    >>> curves = boundary_curves(np.full(99, 1 / 99), np.array([0.01, 0.5]))
    >>> bool(abs(curves.squeeze[0]) < 1e-12), curves.against.round(6).tolist()  # uniform: c = π_y
    (True, [1.0, 1.0])
    """
    q = _proportions(rest)
    y = check_numbers("probs", probs)
    if y.ndim != 1:
        raise UsageError(f"probs: expected numbers along one axis, got shape {y.shape}")
    bad = ~((y > 0) & (y < 1))
    if bad.any():
        index = first_index(bad)
        raise UsageError(f"probs: expected numbers strictly between 0 and 1, got {y[index]:g}{at_index(index)}")
    c = y**2 + (1 - y) ** 2 * (q**2).sum()
    squeeze = c - y
    above = (1 - y)[:, None] * q > squeeze[:, None]
    cov, h = _covariance(y, q)
    return BoundaryCurves(y, squeeze, (above * q).sum(1), cov, h)


def entropy_sign_boundary(rest: Float[np.ndarray, " m"]) -> float:
    """The π_y below which a positive sample raises the entropy and a negative one lowers it: the root of Cov.

    Args:
        rest: proportions q of the alternatives, positive, with sum one.

    Returns:
        A probability above e^{−H}.

    Raises:
        UsageError: proportions that are not a distribution.

    Source: derived here (†).

    >>> round(entropy_sign_boundary(np.full(99, 1 / 99)), 6)  # π is uniform at π_y = 1/100
    0.01
    """
    from scipy.optimize import brentq

    q = _proportions(rest)
    surely_below = 0.5 * np.exp(np.sum(q * np.log(q)))
    return float(brentq(lambda y: _covariance(np.array([y]), q)[0][0], surely_below, 0.99, xtol=1e-15))


def _proportions(rest: np.ndarray) -> np.ndarray:
    q = check_numbers("rest", rest)
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
