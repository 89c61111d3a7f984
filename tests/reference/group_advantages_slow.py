"""Advantages of whole batches by the book, one response at a time, from lists of plain numbers.

Pass@k goes through all subsets, a quantile through all thresholds, a mean over tokens through all tokens.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

Groups = Sequence[Sequence[float]]


def std(values: Sequence[float]) -> float:
    return statistics.stdev(values) + 1e-6


def maxrl(group: Sequence[float]) -> list[float]:
    q = sum(group) / len(group)
    return [0.0 if q == 0 else (r - q) / q for r in group]


def winner(group: Sequence[float]) -> list[float]:
    q = sum(group) / len(group)
    return [max(r - q, 0.0) for r in group]


def quantile(group: Sequence[float], k: float, *, linear: bool, divides: bool) -> list[float]:
    ordered = sorted(group)
    if linear:
        place = k * (len(group) - 1)
        low = math.floor(place)
        high = min(low + 1, len(group) - 1)
        baseline = ordered[low] + (place - low) * (ordered[high] - ordered[low])
    else:
        baseline = next(x for x in ordered if sum(r <= x for r in group) >= k * len(group) - 1e-9)
    return [(r - baseline) / (std(group) if divides else 1.0) for r in group]


def pass_at_k(group: Sequence[float], k: int) -> list[float]:
    """Each subset of k is rewarded with its best; a response has the mean of its subsets less that of all subsets."""
    subsets = list(itertools.combinations(range(len(group)), k))
    best = {subset: max(group[i] for i in subset) for subset in subsets}
    mean = sum(best.values()) / len(subsets)
    sigma = math.sqrt(mean * (1 - mean)) + 1e-6
    own = [[best[subset] for subset in subsets if i in subset] for i in range(len(group))]
    return [(sum(values) / len(values) - mean) / sigma for values in own]


def pass_at_k_full(group: Sequence[float], k: int) -> list[float]:
    best = [max(group[i : i + k]) for i in range(0, len(group), k)]
    mean = sum(best) / len(best)
    return [0.0 if len(set(best)) == 1 else (best[i // k] - mean) / std(best) for i in range(len(group))]


def best_of_group(group: Sequence[float], *, divides: bool) -> list[float]:
    first, second = sorted(group, reverse=True)[:2]
    lead = (first - second) / (std(group) if divides else 1.0)
    return [lead if i == list(group).index(first) else 0.0 for i in range(len(group))]


def length_mean(group: Sequence[float], lengths: Sequence[int]) -> list[float]:
    tokens = [r for r, n in zip(group, lengths, strict=True) for _ in range(n)]
    return [r - sum(tokens) / len(tokens) for r in group]


def rescaled(groups: Groups, *, successes: bool) -> list[float]:
    centred = [r - sum(group) / len(group) for group in groups for r in group]
    counted = [r for group in groups for r in group] if successes else centred
    alpha = len(centred) / max(1, sum(value != 0 for value in counted))
    return [alpha * value for value in centred]


def whitened(values: Sequence[float], lengths: Sequence[int] | None) -> list[float]:
    """Over responses, or over tokens where lengths are given."""
    if lengths is None:
        mean, scale = statistics.mean(values), statistics.stdev(values) + 1e-4
    else:
        tokens = [value for value, n in zip(values, lengths, strict=True) for _ in range(n)]
        mean, scale = statistics.mean(tokens), math.sqrt(statistics.variance(tokens) + 1e-8)
    return [(value - mean) / scale for value in values]
