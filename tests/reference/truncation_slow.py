"""Truncated distributions by their definition: one token at a time, in 60-digit arithmetic, over plain lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpmath import MPContext

ctx = MPContext()
ctx.dps = 60


def distribution_of(logits: Sequence[float], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list:
    """Temperature, then the top_k most probable tokens, then the fewest of these that hold top_p of their mass."""
    weights = [ctx.exp(ctx.mpf(z) / ctx.mpf(temperature)) for z in logits]
    best_first = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
    left = best_first[:top_k] if top_k else best_first
    enough = ctx.mpf(top_p) * ctx.fsum(weights[v] for v in left)
    nucleus: list[int] = left if top_p == 1 else []
    while len(nucleus) < len(left) and ctx.fsum(weights[v] for v in nucleus) < enough:
        nucleus.append(left[len(nucleus)])
    total = ctx.fsum(weights[v] for v in nucleus)
    return [weights[v] / total if v in nucleus else ctx.mpf(0) for v in range(len(logits))]


def margin(logits: Sequence[float], temperature: float, top_k: int, top_p: float) -> float:
    """How near a cumulative mass comes to top_p: below rounding, which token is the last is not determined."""
    weights = sorted((ctx.exp(ctx.mpf(z) / ctx.mpf(temperature)) for z in logits), reverse=True)
    weights = weights[:top_k] if top_k else weights
    total = ctx.fsum(weights)
    return min(float(abs(ctx.fsum(weights[:n]) / total - ctx.mpf(top_p))) for n in range(1, len(weights) + 1))


def entropy_of(distribution: Sequence) -> float:
    return float(-ctx.fsum(p * ctx.log(p) for p in distribution if p > 0))


def log_of(probability: object) -> float:
    return float(ctx.log(probability)) if probability > 0 else -math.inf
