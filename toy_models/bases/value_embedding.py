"""Numbers embedded by their value: how a base starts that learns from exact targets (`exact_targets.py`).

A number n has the features cos and sin of 2πn/P, so that sums and differences are rotations, and of 2πk·ind(n)/100, so
that products are (ind is the index to base 2 modulo 101: 2^ind(n) = n, hence ind(xy) = ind(x) + ind(y) modulo 100).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..tasks.puzzle import PuzzleTask
from .recipes import ExactTargets

__all__ = ["embed_by_value", "value_features"]

_PRIME, _ROOT = 101, 2  # 2 is a primitive root of 101, the first prime above every number of the tasks
_KINDS = 3  # numbers, marks with a number (jumps), other words


def value_features(value: int, periods: tuple[int, ...], characters: tuple[int, ...]) -> list[float]:
    """cos and sin of 2πn/P for each period P, then of 2πk·ind(n)/100 for each k (0 has no index: zeros).

    >>> [round(x, 3) for x in value_features(3, (4, 12), ())]
    [-0.0, -1.0, 0.0, 1.0]
    >>> six, two, three = (complex(*value_features(n, (), (1,))) for n in (6, 2, 3))
    >>> abs(six - two * three) < 1e-12
    True
    """
    features = [f(2 * math.pi * value / period) for period in periods for f in (math.cos, math.sin)]
    if value == 0:
        return features + [0.0] * (2 * len(characters))
    index = _indices()[value]
    return features + [f(2 * math.pi * k * index / (_PRIME - 1)) for k in characters for f in (math.cos, math.sin)]


def _indices() -> dict[int, int]:
    return {pow(_ROOT, exponent, _PRIME): exponent for exponent in range(_PRIME - 1)}


def embed_by_value(model: Any, task: PuzzleTask[Any], targets: ExactTargets, std: float) -> None:
    """Rewrite the embedding (tied: the head too) in place; `std` is that of its random entries.

    The random entries of numbers and jumps are scaled by `noise`; their features (+d has those of d) are
    `feature_scale` times as large as the random entries were. The last coordinates of every word mark its kind, with
    `mark_scale` times that size. Raises ValueError where features and marks do not fit into the embedding.
    """
    table = model.get_input_embeddings().weight
    n_features = 2 * (len(targets.periods) + len(targets.characters))
    if n_features + _KINDS > table.shape[1]:
        raise ValueError(
            f"periods, characters: expected at most {(table.shape[1] - _KINDS) // 2} together for hidden = "
            f"{table.shape[1]}, got {n_features // 2}; leave some out, or make the model wider"
        )
    with torch.no_grad():
        for word, token in task.ids.items():
            row, digits = table[token], word.lstrip("+")
            kind = 0 if not digits.isdecimal() else 1 if digits != word else 2
            if kind:
                features = torch.tensor(value_features(int(digits), targets.periods, targets.characters))
                row *= targets.noise
                row[:n_features] = features * (targets.feature_scale * math.sqrt(2) * std)
            row[-_KINDS:] = 0.0
            row[-1 - kind] = targets.mark_scale * std
