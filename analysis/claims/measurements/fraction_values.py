"""The value of each cell of the decomposition, seed by seed, from the evaluations of its runs.

At equal Pass@1: both runs of a seed are read where validation Pass@1 first is a quarter, a half, three quarters and the
whole of the place's gain above their common base. With g_l the Pass@1 gained at level l and L the levels that both
runs reached,

    value = 0.1 · Σ_{l∈L} (metric of NSR − metric of PSR at l) / Σ_{l∈L} g_l

the gap for each 0.1 of Pass@1 gained: so that places of different gain are on one scale, and a run that reaches some of
the levels counts with these. A seed without any common level has no value.

At equal steps: the difference after `EQ6_STEPS` steps, where every cell can be read.

Metrics are means over the test prompts that all evaluations share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation import get_metric
from ...evaluation.matching import FRACTIONS, Matched, matched
from ...evaluation.metrics import evals_of
from ...evaluation.sampling_params import SamplingParams
from ...records import Run
from ..comparisons import at_steps
from ..evidence import Methods
from ..study import NSR, PSR

__all__ = ["LEAST_SHARE", "METRICS", "STEP_METRICS", "UNIT_GAIN", "filled", "values_of_cell"]

METRICS = ("entropy_fixed", "pass@64", "pass@256")
STEP_METRICS = (*METRICS, "pass@1")
UNIT_GAIN = 0.1  # gaps at equal Pass@1 are per so much Pass@1 gained
LEAST_SHARE = 0.5  # of the seeds that must have a value for the others to be filled in


def values_of_cell(methods: Methods, cell: str, *, gain: float, step: int) -> pd.DataFrame:
    """The gaps NSR − PSR of one cell.

    Args:
        methods: Its runs.
        cell: Its name.
        gain: Rise of validation Pass@1 above the base that the levels divide.
        step: At which runs are compared at equal steps.

    Returns:
        Rows (cell, seed, metric) with columns matched (the gap at equal Pass@1, per `UNIT_GAIN` of it; NaN without a
        common level), levels (how many both reached), steps (the gap at equal steps), level (the mean of both methods
        less the base, per `UNIT_GAIN` of Pass@1, too).
    """
    rows: list[dict[str, Any]] = []
    for seed in sorted(set(methods[PSR]) & set(methods[NSR])):
        pair = {name: methods[name][seed] for name in (PSR, NSR)}
        start = _start(pair[PSR])
        at_p = matched(pair, list(METRICS), "pass@1", levels=[start + gain * share for share in FRACTIONS], resamples=2)
        at_step = matched(pair, list(STEP_METRICS), "step", levels=[step], resamples=2)
        base = at_steps(pair[PSR], (0,))
        for metric in STEP_METRICS:
            row: dict[str, Any] = {"cell": cell, "seed": seed, "metric": metric}
            row["steps"] = _gap(at_step, float(step), metric)
            if metric in METRICS:
                before = float(base.values(get_metric(metric))[0].mean())
                row |= _at_levels(at_p, metric, before, start)
            rows.append(row)
    return pd.DataFrame(rows, columns=["cell", "seed", "metric", "matched", "levels", "steps", "level"])


def filled(values: pd.DataFrame, column: str) -> tuple[pd.DataFrame, int]:
    """Values of cells that some seeds lack, replaced by the mean of the cell over the others; how many there were.

    A cell that fewer than `LEAST_SHARE` of the seeds have keeps its gaps: what needs it then has no value.

    Args:
        values: Rows (cell, seed) of one metric.
        column: The column to fill.
    """
    out, count = values.copy(), 0
    for _, rows in values.groupby("cell"):
        known = rows[column].dropna()
        if len(known) < len(rows) and len(known) >= LEAST_SHARE * len(rows):
            gaps = rows.index.difference(known.index)
            out.loc[gaps, column] = known.mean()
            count += len(gaps)
    return out, count


def _start(run: Run) -> float:
    """Mean validation p of the base."""
    evals = SamplingParams(1.0, 0, 1.0).rows(evals_of(run))
    return float(evals[(evals["split"] == "validation") & (evals["step"] == 0)]["p"].mean())


def _gap(found: Matched, level: float, metric: str) -> float:
    return float((found.values(level, NSR, metric) - found.values(level, PSR, metric)).mean())


def _at_levels(found: Matched, metric: str, before: float, start: float) -> Mapping[str, float]:
    table = found.table[found.table["metric"] == metric]
    reached = table.groupby("level", sort=True)["reached"].all()
    levels = [float(level) for level in reached.index.to_numpy(float)]
    common = [level for level, both in zip(levels, reached, strict=True) if both]
    if not common:
        return {"matched": float("nan"), "levels": 0, "level": float("nan")}
    scale = UNIT_GAIN / sum(level - start for level in common)
    gaps = [_gap(found, level, metric) for level in common]
    means = [np.mean([found.values(level, name, metric).mean() for name in (PSR, NSR)]) - before for level in common]
    return {"matched": float(sum(gaps) * scale), "levels": len(common), "level": float(sum(means) * scale)}
