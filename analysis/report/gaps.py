"""How two methods differ at equal Pass@1, all along the range of Pass@1 that they share."""

from __future__ import annotations

import pandas as pd

from .comparison import ENTROPY, Comparison
from .figure_titles import log_effective

__all__ = ["gap_curves"]

POINTS = 12  # of a curve


def gap_curves(comparison: Comparison) -> pd.DataFrame:
    """Differences of the first pair of methods: columns quantity, reached (Pass@1), value, low, high, in nats.

    Quantities: the entropy per token on fixed prefixes, and the logarithm of effective solutions, which is the entropy
    of a whole response given that it is correct.

    Raises:
        EmptyRangeError: the methods share no range of Pass@1.
    """
    columns = [
        (name, column)
        for name, column in (
            ("entropy per token", comparison.metric(ENTROPY)),
            ("log effective solutions", log_effective(comparison)),
        )
        if column is not None
    ]
    fractions = [(i + 1) / POINTS for i in range(POINTS)]
    matching = comparison.match("pass@1", metrics=[column for _, column in columns], fractions=fractions)
    rows = []
    for name, column in columns:
        for level in matching.levels:
            cell = comparison.difference(matching, level, comparison.pairs[0], column)
            rows.append((name, level, cell.value, cell.low, cell.high))
    return pd.DataFrame(rows, columns=["quantity", "reached", "value", "low", "high"])
