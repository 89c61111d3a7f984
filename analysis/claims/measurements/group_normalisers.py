"""What Dr. GRPO, GRPO and MaxRL share and how they differ, exactly, for every outcome of a group.

In a group of G responses of which the fraction q is correct, an advantage is A₊ on correct and A₋ on wrong ones, and
sums to zero, so that A₊/|A₋| = (1 − q)/q for all three: the same λ. They differ in the weight of the prompt:

    |A₋| = q (Dr. GRPO)     √(q/(1 − q)), up to √((G − 1)/G) (GRPO)     1 (MaxRL)

MaxRL's estimate (1/G)·Σ A_i ∇log π(y_i), with A = (r − q)/q, and 0 where q = 0, has the expectation

    Σ_{k=1}^{G−1} (1 − p)^{k−1} ∇p = (1 − (1 − p)^{G−1})/p · ∇p

the series of ∇log p truncated after G − 1 terms: a term of ∇Pass@k/k for each k (2602.02710, whose estimator without
the baseline has one term more).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ...objectives import get, prompt_weights

__all__ = ["GROUP_SIZES", "TOLERANCE", "normaliser_table", "truncated_series"]

GROUP_SIZES = (2, 4, 8, 16)
TOLERANCE = 1e-5  # relative: GRPO adds 1e-6 to the standard deviation that it divides by
_SUCCESS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_OBJECTIVES = ("dr-grpo", "grpo", "maxrl")


def truncated_series(p: float, terms: int) -> float:
    """Σ_{k=1}^{terms} (1 − p)^{k−1}, term by term."""
    return math.fsum((1 - p) ** (k - 1) for k in range(1, terms + 1))


def normaliser_table() -> dict[str, list[float | str]]:
    """Expected weight of a prompt by objective, group size and p, columns objective, group_size, p, weight, series.

    `series` is the truncated series of ∇log p, which MaxRL's weight is.

    Raises:
        ArithmeticError: an advantage or a weight of the toolkit differs from the closed forms.
    """
    for size in GROUP_SIZES:
        for correct in range(1, size):
            _check_advantages(size, correct)
    table: dict[str, list[float | str]] = {name: [] for name in ("objective", "group_size", "p", "weight", "series")}
    for size in GROUP_SIZES:
        series = np.array([truncated_series(p, size - 1) for p in _SUCCESS])
        for name in _OBJECTIVES:
            weights = prompt_weights(name, size, _SUCCESS).weight.numpy()
            if name == "maxrl":
                _agree(f"MaxRL's expected weight in groups of {size}", weights, series)
            for p, weight, term in zip(_SUCCESS, weights.tolist(), series.tolist(), strict=True):
                row: tuple[float | str, ...] = (name, size, p, weight, term)
                for column, value in zip(table, row, strict=True):
                    table[column].append(value)
    return table


def _check_advantages(size: int, correct: int) -> None:
    rewards = torch.zeros(size, dtype=torch.float64)
    rewards[:correct] = 1
    q = correct / size
    for name, scale in zip(_OBJECTIVES, (q, math.sqrt(q / (1 - q)), 1.0), strict=True):
        advantages = get(name).advantages(rewards, size).numpy()
        expected = np.where(rewards.numpy() > 0, scale * (1 - q) / q, -scale)
        where = f"the advantages of {name} with {correct} of {size} correct"
        if name == "grpo":  # divides by the standard deviation of a sample
            expected *= math.sqrt((size - 1) / size)
        _agree(where, advantages, expected)


def _agree(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    error = float(np.abs(found / expected - 1).max())
    if error > TOLERANCE:
        raise ArithmeticError(
            f"{what}: expected the closed form within {TOLERANCE:g}, got a relative error of {error:.3g}; the "
            "advantages of the toolkit are wrong"
        )
