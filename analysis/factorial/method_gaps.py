"""Gaps between methods, at matched Pass@1 and at matched steps.

At matched Pass@1: each seed's curve of a metric against its own Pass@1, interpolated at the first crossing of each
level, the difference to PSR averaged over the levels that both methods of the seed reached. A level is reached only if
it lies above the start. Where two methods of a seed share no level the gap is missing (NaN) and counted as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..evaluation.first_crossing import first_crossing
from .cells import CellRun

__all__ = ["LEVELS", "METRICS", "at_levels", "gaps"]

LEVELS: tuple[float, ...] = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
METRICS = ("entropy_correct", "entropy", "pass@8")


def gaps(runs: Iterable[CellRun], *, levels: Sequence[float] = LEVELS, against: str = "PSR") -> pd.DataFrame:
    """One row for each cell, method, metric and seed: the method's value minus that of `against`.

    Columns cell, method, metric, seed, matched (over `levels`; NaN where none is common), levels (how many were),
    last (at the last step), updates (of the method at the end). Raises UsageError for a cell without a pair to compare.
    """
    by_cell: dict[str, dict[str, CellRun]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, {})[run.method] = run
    rows = []
    for cell, methods in by_cell.items():
        if against not in methods or len(methods) < 2:
            raise UsageError(
                f"runs: expected {against} and another method in each cell, got {', '.join(methods)} in {cell}"
            )
        reference = methods[against]
        crossed = {method: at_levels(run, levels) for method, run in methods.items()}
        for method, run in methods.items():
            if method == against:
                continue
            for metric in METRICS:
                difference = crossed[method][metric] - crossed[against][metric]
                count = np.isfinite(difference).sum(0)
                rows.append(
                    pd.DataFrame(
                        {
                            "cell": cell,
                            "method": method,
                            "metric": metric,
                            "seed": np.arange(difference.shape[1]),
                            "matched": np.where(
                                count > 0, np.nansum(difference, axis=0) / np.maximum(count, 1), np.nan
                            ),
                            "levels": count,
                            "last": run.values[metric][-1] - reference.values[metric][-1],
                            "updates": run.updates[-1],
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)


def at_levels(run: CellRun, levels: Sequence[float]) -> dict[str, np.ndarray]:
    """Metric -> (levels, S): its value where each seed's Pass@1 first crosses a level, NaN where it does not."""
    p = run.values["pass@1"]
    values = {metric: np.full((len(levels), p.shape[1]), np.nan) for metric in METRICS}
    for i, level in enumerate(levels):
        for seed in range(p.shape[1]):
            crossing = first_crossing(p[:, seed], level)
            if crossing is None or crossing.after == 0:  # a level must lie above the start
                continue
            for metric in METRICS:
                values[metric][i, seed] = crossing.of(run.values[metric][:, seed])
    return values
