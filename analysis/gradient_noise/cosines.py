"""The interval of the cosine between an estimator's expectation and the exact gradient, from pairs of replicates.

With u = ∇p/‖∇p‖, a_k = ⟨g_k, u⟩ and G_jk = ⟨g_j, g_k⟩, the squared cosine is w = (E a)²/‖E g‖², and both have unbiased
estimates from pairs j ≠ k, which noise does not enlarge: mean a_j a_k and mean G_jk. So at the true w

    S(w) = mean over j ≠ k of φ_jk,   φ_jk = a_j a_k − w·G_jk,

has expectation 0, however small the signal is. Its variance is that of a U-statistic of order two (Hoeffding 1948,
Ann. Math. Stat. 19:293),

    Var S = (4(K − 2)·ζ₁ + 2ζ₂) / (K(K − 1)),   ζ₁ = Cov(φ_jk, φ_jl),   ζ₂ = Var φ_jk,

and the means of φ_jk φ_jl, φ_jk² and φ_jk φ_lm over distinct indices estimate the parts without bias (ζ₁ is not below
0). The interval is every w with |S(w)| ≤ t·√Var S, t Student's quantile on K − 1 degrees of freedom: an estimate
divided by its standard error is bad here, because √(mean G_jk) may be near 0. Where the expectation is a multiple of
∇p, the truth is at the boundary w = 1, and intervals are wide, not short: there only one end can miss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..evaluation import Interval
from ..evaluation.influence import few
from ..evaluation.interval_kinds import LEAST_REPLICATES_COSINE, Kind
from ..evaluation.intervals import no_interval, student_quantile

__all__ = ["cosine_interval"]

_GRID = 512  # values of w that are looked at before the ends are refined
_HALVINGS = 40


def cosine_interval(gram: np.ndarray, dots: np.ndarray, gradient_sq: float, level: float = 0.95) -> Interval:
    """The cosine of E g with ∇p and its interval, both cut at −1 and 1.

    Args:
        gram: (K, K), ⟨g_j, g_k⟩.
        dots: (K,), ⟨g_k, ∇p⟩.
        gradient_sq: ‖∇p‖².
        level: coverage.

    Returns:
        The estimate mean a/√(mean G_jk) and the ends. Where w = 0 is in the interval the sign is open, and the ends are
        ∓ the largest cosine. Where mean G_jk is not positive there is neither estimate nor interval.

    Example:
        >>> g = np.array([[2.0, 0.1], [1.0, -0.1]] * 4)  # ∇p = (1, 0)
        >>> found = cosine_interval(g @ g.T, g[:, 0], 1.0)
        >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
        (1.0, 0.999, 1.0)
    """
    count = len(dots)
    if not gradient_sq > 0:
        return no_interval(np.nan, "the exact gradient is 0", Kind.COSINE)
    along = dots / np.sqrt(gradient_sq)
    pairs = count * (count - 1)
    signal = (along.sum() ** 2 - (along**2).sum()) / pairs
    whole = (gram.sum() - np.trace(gram)) / pairs
    if not whole > 0:
        return no_interval(np.nan, "the replicates have no direction in common", Kind.COSINE)
    estimate = float(np.clip(along.mean() / np.sqrt(whole), -1, 1))
    if count < LEAST_REPLICATES_COSINE:
        return no_interval(estimate, few(count, LEAST_REPLICATES_COSINE, "replicates"), Kind.COSINE)
    variance = _variance(np.outer(along, along), gram)
    quantile = student_quantile(count - 1, level)

    def inside(w: np.ndarray) -> np.ndarray:
        tolerance = 1e-12 * (abs(signal) + w * abs(whole))  # rounding, where the replicates are all alike
        kept: np.ndarray = np.abs(signal - w * whole) <= quantile * np.sqrt(variance(w)) + tolerance
        return kept

    low, high = _ends(inside, max(signal / whole, 0.0))
    sign = 1.0 if along.mean() >= 0 else -1.0
    if low == 0:
        return Interval(estimate, -float(np.sqrt(high)), float(np.sqrt(high)), Kind.COSINE)
    ends = sorted((sign * float(np.sqrt(low)), sign * float(np.sqrt(high))))
    return Interval(estimate, ends[0], ends[1], Kind.COSINE)


def _variance(first: np.ndarray, second: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Var S as a function of w, for φ = first − w·second (K, K), whose diagonals do not count."""
    count = len(first)
    off = ~np.eye(count, dtype=bool)
    both = (first * off, second * off)
    rows = [matrix.sum(1) for matrix in both]
    two = count * (count - 1)
    three, four = two * (count - 2), two * (count - 2) * (count - 3)
    zeta = []  # of each product of the two parts: ζ₁ and ζ₂
    for i, j in ((0, 0), (0, 1), (1, 1)):
        squares, stars, sums = (both[i] * both[j]).sum(), rows[i] @ rows[j], rows[i].sum() * rows[j].sum()
        mean_sq = (sums - 4 * stars + 2 * squares) / four
        zeta.append(((stars - squares) / three - mean_sq, squares / two - mean_sq))
    linear, pure = (np.array(values) for values in zip(*zeta, strict=True))

    def of(w: np.ndarray) -> np.ndarray:
        powers = np.stack([np.ones_like(w), -2 * w, w**2])
        one, other = np.maximum(linear @ powers, 0), np.maximum(pure @ powers, 0)
        variance: np.ndarray = (4 * (count - 2) * one + 2 * other) / two
        return variance

    return of


def _ends(inside: Callable[[np.ndarray], np.ndarray], centre: float) -> tuple[float, float]:
    """The least and the greatest w in [0, 1] that are inside; S is 0 at `centre`."""
    grid = np.unique(np.append(np.linspace(0, 1, _GRID + 1), min(centre, 1.0)))
    kept = np.flatnonzero(inside(grid))
    if not len(kept):  # the estimate lies beyond 1, farther than its error
        return min(centre, 1.0), min(centre, 1.0)
    first, last = kept[0], kept[-1]
    low = grid[0] if first == 0 else _refined(inside, grid[first], grid[first - 1])
    high = grid[-1] if last == len(grid) - 1 else _refined(inside, grid[last], grid[last + 1])
    return float(low), float(high)


def _refined(inside: Callable[[np.ndarray], np.ndarray], kept: float, left: float) -> float:
    """The boundary between a w that is inside and one that is not."""
    for _ in range(_HALVINGS):
        middle = (kept + left) / 2
        kept, left = (middle, left) if inside(np.array([middle]))[0] else (kept, middle)
    return kept
