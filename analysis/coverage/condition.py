"""A world of the coverage table, with several rows where one draw gives several intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import Interval

__all__ = ["Condition", "Draws"]

Draws = list[tuple[Interval, float]]  # intervals with what is true, for each of the condition's rows


@dataclass(frozen=True)
class Condition:
    """Worlds that are drawn together.

    Attributes:
        rows: By kind of the intervals what is told apart, such as metrics; one interval of each draw belongs to each.
        size: How much data.
        draw: From a generator to one interval a row, each with what is true.
        replicates: Fraction of the replicates that are asked for; costly worlds have fewer.
        claimed: Whether 93 to 97% is aimed at there.
    """

    rows: Mapping[Kind, Sequence[str]]
    size: str
    draw: Callable[[np.random.Generator], Draws]
    replicates: float = 1.0
    claimed: bool = True
