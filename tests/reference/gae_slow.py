"""Generalised advantage estimation by its definition: the (1 − λ)λ^{n−1}-weighted mean of the n-step advantages."""

from __future__ import annotations


def n_step(values: list[float], rewards: list[float], t: int, n: int) -> float:
    """Rewards of n steps, then the value of where they led (0 after the end), less the value now; γ = 1."""
    end = t + n
    return sum(rewards[t:end]) + (values[end] if end < len(values) else 0.0) - values[t]


def advantages(values: list[float], rewards: list[float], lambda_: float) -> list[float]:
    """Of one response; the n-step advantages that reach its end are all the same, and so carry the rest of the mass."""
    out = []
    for t in range(len(values)):
        left = len(values) - t
        weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, left)] + [lambda_ ** (left - 1)]
        out.append(sum(w * n_step(values, rewards, t, n) for n, w in enumerate(weights, start=1)))
    return out
