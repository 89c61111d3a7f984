"""Pass@k: the probability that at least one of k independent responses to a prompt is correct.

With success probability p it is 1 − (1−p)^k. From n samples with c correct, 1 − C(n−c, k)/C(n, k) is its unbiased
estimate (Chen et al. 2021, arXiv 2107.03374, section 2.1; computed here as a sum of logarithms, which keeps the
relative precision of small values where the product itself loses it). Both are per prompt: average over prompts
afterwards. At k > n no unbiased estimate from n samples exists, so that is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..common.arguments import check_numbers
from ..errors import UsageError, at_index, first_index

__all__ = ["K_GRID", "pass_at_k", "pass_at_k_exact"]

K_GRID: tuple[int, ...] = tuple(2**i for i in range(11))  # the k of every exact Pass@k curve: 1, 2, 4, …, 1024


def _check(bad: np.ndarray, name: str, expected: str, value: np.ndarray, fix: str) -> None:
    """Raise for the first True of `bad`, naming its index and value."""
    if bad.any():
        index = first_index(bad)
        got = np.broadcast_to(value, bad.shape)[index]
        raise UsageError(f"{name}: expected {expected}, got {got}{at_index(index)}; {fix}")


def _whole(value: ArrayLike, name: str) -> np.ndarray:
    number = check_numbers(name, value)
    _check(~(np.isfinite(number) & (number == np.floor(number))), name, "whole numbers", number, "these are counts")
    return number.astype(np.int64)


def _together(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The arrays broadcast to one shape."""
    try:
        return np.broadcast_arrays(*arrays.values())
    except ValueError as error:
        shapes = " and ".join(str(array.shape) for array in arrays.values())
        raise UsageError(f"{', '.join(arrays)}: expected shapes that broadcast to one, got {shapes}") from error


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Unbiased estimate of Pass@k from n samples of which c are correct; the arguments broadcast.

    1 − C(n−c, k)/C(n, k) = 1 − Π_{i<m} (1 − M/(n−i)) with m = min(c, k), M = max(c, k), float64; exactly 1 where
    n − c < k. The mean over c ~ Binomial(n, p) is `pass_at_k_exact(p, k)`. Cost: m vectorised operations.

    Args:
        n: samples drawn, of each prompt.
        c: how many of them are correct.
        k: responses that may be tried.

    Returns:
        The probability that k of the n samples, drawn without replacement, hold a correct one.

    Raises:
        UsageError: not 0 ≤ c ≤ n, or not 1 ≤ k ≤ n.

    Example:
        >>> float(pass_at_k(4, 1, 2))
        0.5
        >>> pass_at_k([4, 4, 4], [0, 1, 3], 2).round(6).tolist()
        [0.0, 0.5, 1.0]
    """
    n, c, k = _together({"n": _whole(n, "n"), "c": _whole(c, "c"), "k": _whole(k, "k")})
    _check((c < 0) | (c > n), "c", "0 ≤ c ≤ n correct samples", c, "count correct samples among the n drawn")
    _check(k < 1, "k", "k ≥ 1", k, "Pass@k is over at least one response")
    _check(k > n, "k", "k ≤ n", k, "draw more samples, or use pass_at_k_exact with an enumerated success probability")
    fewer, more = np.minimum(c, k), np.maximum(c, k)
    certain = n - c < k
    log_fail = np.zeros(n.shape)
    for i in range(int(np.where(certain, 0, fewer).max(initial=0))):
        active = (i < fewer) & ~certain
        log_fail += np.log1p(-np.where(active, more, 0) / np.where(active, n - i, 1))
    return np.where(certain, 1.0, 0.0 - np.expm1(log_fail))[()]


def pass_at_k_exact(p: ArrayLike, k: ArrayLike) -> Any:
    """Pass@k from the success probability: 1 − (1−p)^k as −expm1(k·log1p(−p)), float64; the arguments broadcast.

    Args:
        p: success probability of one response, of each prompt.
        k: responses that may be tried.

    Raises:
        UsageError: p is not in [0, 1], or k is not a whole number of at least 1.

    Example:
        >>> pass_at_k_exact([0.0, 0.5, 1.0], 2).tolist()
        [0.0, 0.75, 1.0]
        >>> float(pass_at_k_exact(1e-20, 4))
        4e-20
    """
    p, k = _together({"p": check_numbers("p", p), "k": _whole(k, "k")})
    _check(~((p >= 0) & (p <= 1)), "p", "probabilities in [0, 1]", p, "sum probabilities of distinct responses only")
    _check(k < 1, "k", "k ≥ 1", k, "Pass@k is over at least one response")
    with np.errstate(divide="ignore"):  # p = 1: log1p(−1) = −∞ and 1 − e^{−∞} = 1, as it should be
        return (0.0 - np.expm1(k * np.log1p(-p)))[()]  # 0 − x: no negative zeros
