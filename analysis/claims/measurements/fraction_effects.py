"""From the values of the cells to effects: shares of each factor and interactions of each pair, with intervals.

Under the ratio form all sixteen cells of four factors were run, so that first in, last out, Shapley shares and
interactions are those of `analysis.factorial.attribution`, without a model. Five factors at equal steps, with the
probability form among them, follow from the half fraction (`analysis.factorial.half_fraction`). All are taken seed by
seed; intervals are Student's t over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ...evaluation import interval
from ...evaluation.crossed import holm
from ...evaluation.intervals import student_quantile
from ...factorial.attribution import factor_shares, interactions
from ...factorial.cells import Cells, run_cells
from ...factorial.factors import Cell, cell_name, full_factorial
from ...factorial.half_fraction import SecondOrder, half_fraction, main_effects
from ...factorial.method_gaps import LEVELS, gaps
from ..fraction import FACTORS, RATIO_FACTORS
from .fraction_values import UNIT_GAIN, filled

__all__ = [
    "EXACT_SETTINGS",
    "effect_by_seed",
    "exact_shares",
    "half_effects",
    "p_value",
    "ratio_interactions",
    "ratio_main_effects",
    "ratio_shares",
    "with_holm",
]

# The exact factorial beside the transformer's: a quarter of the prompts and fewer seeds than `make factorial` takes.
EXACT_SETTINGS = Cells(methods=("PSR", "NSR"), seeds=8, prompts=64, steps=200)
_ROUNDING = 1e-4  # of float32 over 200 steps, in nats or success


def ratio_shares(values: pd.DataFrame, column: str) -> pd.DataFrame:
    """First in, last out and Shapley share of the four factors of the ratio form: rows of `factor_shares`.

    Args:
        values: Rows (cell, seed) of one metric.
        column: Of the value.
    """
    return factor_shares(_ratio_rows(values), RATIO_FACTORS, column=column)


def ratio_interactions(values: pd.DataFrame, column: str) -> pd.DataFrame:
    """Interactions of every pair of the four: rows of `interactions`."""
    return interactions(_ratio_rows(values), RATIO_FACTORS, column=column)


def effect_by_seed(values: pd.DataFrame, column: str, factor: str) -> dict[int, float]:
    """Mean value over the ratio cells with the factor on less that with it off: seed -> difference.

    Values that some seeds lack are filled as `filled` does; seeds that still lack a cell are left out.

    Args:
        values: Rows (cell, seed) of one metric.
        column: Of the value.
        factor: One of the four.
    """
    rows, _ = filled(_ratio_rows(values), column)
    wide = rows.pivot(index="seed", columns="cell", values=column).dropna()
    if len(wide.columns) < len(full_factorial(RATIO_FACTORS)):
        return {}
    on = np.array([factor in str(cell).split("+") for cell in wide.columns])
    effect = wide.loc[:, on].mean(axis=1) - wide.loc[:, ~on].mean(axis=1)
    return dict(zip(effect.index.astype(int).tolist(), effect.to_numpy(float).tolist(), strict=True))


def ratio_main_effects(values: pd.DataFrame, column: str) -> pd.DataFrame:
    """Main effects of the four from half of their cells (countdown), as Shapley shares under a model of second order.

    None where a cell lacks a value in all seeds.
    """
    names = [factor.name for factor in RATIO_FACTORS]
    by_cell = _by_cell(values, column, half_fraction(names))
    return _rows("Shapley", main_effects(by_cell, names)) if by_cell else _no_rows()


def half_effects(values: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All five factors from the half fraction: shares (first in, last out, Shapley), and interactions of pairs.

    Over the seeds that the cells with the probability form were run for. None where a cell lacks a value.
    """
    names = [factor.name for factor in FACTORS]
    by_cell = _by_cell(values, column, half_fraction(names))
    if not by_cell:
        return _no_rows(), pd.DataFrame(columns=["first", "second", "value", "low", "high", "n"])
    model = SecondOrder.of(by_cell, names)
    kinds = {"first in": model.first_in(), "last out": model.last_out(), "Shapley": model.shapley()}
    pairs = _rows("interaction", {f"{one} {other}": value for (one, other), value in model.interactions().items()})
    ends = pairs["factor"].str.split(" ", expand=True)
    pairs = pairs.assign(first=ends[0], second=ends[1]).drop(columns=["factor", "kind"])
    return pd.concat([_rows(kind, found) for kind, found in kinds.items()], ignore_index=True), pairs


def exact_shares(
    progress: Callable[[int, int], None] = lambda done, total: None, settings: Cells = EXACT_SETTINGS
) -> pd.DataFrame:
    """Shares of the same four factors on an exact policy, at equal Pass@1: rows of `factor_shares` with metric.

    Per `UNIT_GAIN` of Pass@1 gained, as on the transformer; a seed has a value where both methods reached all levels.
    There noise off is the expected gradient and reuse has no clip; entropy is over responses.

    Args:
        progress: Receives (runs done, of how many).
        settings: The problem and its size.

    Raises:
        RuntimeError: PSR and NSR differ with everything off, where they are one update: the toolkit is wrong.
    """
    cells = full_factorial(RATIO_FACTORS)
    jobs = [(cell, method) for cell in cells for method in settings.methods]
    runs = []
    for run in run_cells(jobs, settings):
        runs.append(run)
        progress(len(runs), len(jobs))
    table = gaps(runs)
    off = table[(table["cell"] == cell_name(frozenset())) & (table["method"] == "NSR")]
    if not float(off["last"].abs().max()) < _ROUNDING:
        raise RuntimeError(f"PSR and NSR differ by {off['last'].abs().max():.2g} where both are the exact gradient")
    parts = []
    start = runs[0].values["pass@1"][0]
    table["matched"] *= UNIT_GAIN / (np.mean(LEVELS) - start[table["seed"]])
    table.loc[table["levels"] < len(LEVELS), "matched"] = np.nan
    for metric in ("entropy", "pass@8"):
        rows = table[(table["metric"] == metric) & (table["method"] == "NSR")]
        parts.append(factor_shares(rows, RATIO_FACTORS, column="matched").assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def p_value(value: float, low: float, high: float, n: float) -> float:
    """Two-sided p of a mean over n seeds being 0, from its Student interval; NaN where it has none.

    Example:
        >>> round(p_value(1.0, 0.0, 2.0, 8), 3)
        0.05
    """
    from scipy.special import stdtr

    half = (high - low) / 2
    if n < 2 or not np.isfinite(half):
        return float("nan")
    if half == 0:
        return float(value == 0)
    return float(2 * stdtr(n - 1, -abs(value) / (half / student_quantile(n - 1))))


def with_holm(shares: pd.DataFrame) -> pd.DataFrame:
    """The rows with columns p and adjusted: Holm's over all rows that have a p."""
    p = np.array([p_value(*map(float, row)) for row in shares[["value", "low", "high", "n"]].to_numpy(float)])
    known = np.isfinite(p)
    adjusted = np.full(len(p), np.nan)
    adjusted[known] = holm(list(p[known]))
    return shares.assign(p=p, adjusted=adjusted)


def _ratio_rows(values: pd.DataFrame) -> pd.DataFrame:
    names = {cell_name(cell) for cell in full_factorial(RATIO_FACTORS)}
    return values[values["cell"].isin(names)]


def _by_cell(values: pd.DataFrame, column: str, cells: Sequence[Cell]) -> dict[Cell, np.ndarray]:
    """cell -> value of each seed that has all cells; nothing where fewer than two seeds do."""
    names = [cell_name(cell) for cell in cells]
    wide = values[values["cell"].isin(names)].pivot(index="seed", columns="cell", values=column).dropna()
    if len(wide) < 2 or set(wide.columns) != set(names):
        return {}
    return {cell: wide[name].to_numpy(float) for cell, name in zip(cells, names, strict=True)}


def _rows(kind: str, by_factor: Mapping[str, np.ndarray]) -> pd.DataFrame:
    rows = []
    for factor, values in by_factor.items():
        found = interval(values, over="seeds")
        ends = {"value": found.estimate, "low": found.low, "high": found.high, "n": len(values)}
        rows.append({"factor": factor, "kind": kind} | ends)
    return pd.DataFrame(rows)


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=["factor", "kind", "value", "low", "high", "n"])
