"""How the gap is made up: first-in and last-out effects, Shapley shares and pairwise interactions, with intervals.

For a value v(cell), the gap of one method to PSR in one metric and seed:

    first in     v(factor alone) − v(nothing); for a factor that needs another, on top of that one
    last out     v(everything) − v(everything without the factor)
    Shapley      mean over all orders of switching on of v(with) − v(without); orders respect what needs what
                 (Faigle and Kern 1992, Int. J. Game Theory 21:249). The shares add up to v(everything) − v(nothing)
    interaction  mean over the cells of the other factors of v(both) − v(one) − v(other) + v(neither)
    two cells    v(second cell) − v(first cell), all other factors off

The interaction of noise and optimiser and the difference of the cells "both" and "none" are two indices: the first is
averaged over all settings of the other factors, the second is taken where they are off. Each
is taken seed by seed; intervals are Student's t over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ..evaluation import interval
from .factors import Cell, Factor, cell_name, first_in, full_factorial, last_out, needed_by, orders

__all__ = ["cell_differences", "factor_shares", "interactions"]

_NOISE_AND_OPTIMIZER: Cell = frozenset({"noise", "optimizer"})


def factor_shares(table: pd.DataFrame, factors: Sequence[Factor], *, column: str = "matched") -> pd.DataFrame:
    """Effects of every factor from the rows of `gaps`, one method and one metric.

    Columns factor, kind (first in, last out, Shapley), value, low, high, n (seeds with all the cells that the effect
    needs; the others are left out). Shapley shares are there where the full factorial was run. The last rows, factor
    "all", are v(everything) − v(nothing).
    """
    values = _values(table, column)
    everything = frozenset(factor.name for factor in factors)
    rows = []
    for factor in factors:
        rows.append(_row(factor.name, "first in", _difference(values, *first_in(factor))))
        rows.append(_row(factor.name, "last out", _difference(values, *last_out(factor, everything))))
    if all(cell_name(cell) in values for cell in full_factorial(factors)):
        shares = _shapley(values, factors)
        rows += [_row(name, "Shapley", share) for name, share in shares.items()]
    rows.append(_row("all", "everything", _difference(values, everything, frozenset())))
    return pd.DataFrame(rows)


def interactions(table: pd.DataFrame, factors: Sequence[Factor], *, column: str = "matched") -> pd.DataFrame:
    """Pairwise interactions from the full factorial: columns first, second, value, low, high, n.

    A pair of which one needs the other has none: the second difference would take cells that do not exist. Nor has a
    pair of which a cell was not run: the mean would be over some settings of the other factors only.
    """
    values = _values(table, column)
    existing = set(full_factorial(factors))
    rows = []
    for one, other in combinations(factors, 2):
        if one.name in needed_by(other.name) or other.name in needed_by(one.name):
            continue
        pair = {one.name, other.name}
        found = []
        rests = full_factorial([f for f in factors if f.name not in pair])
        squares = [[rest | pair, rest | {one.name}, rest | {other.name}, rest] for rest in rests]
        squares = [corners for corners in squares if existing.issuperset(corners)]
        if all(cell_name(corner) in values for corners in squares for corner in corners):
            for corners in squares:
                both, first, second, neither = (values[cell_name(corner)] for corner in corners)
                found.append(both - first - second + neither)
        if found:
            row = _row(one.name, "", np.mean(found, axis=0))
            rows.append({"first": one.name, "second": other.name} | {k: row[k] for k in ("value", "low", "high", "n")})
    return pd.DataFrame(rows, columns=["first", "second", "value", "low", "high", "n"])


def cell_differences(
    table: pd.DataFrame, factors: Sequence[Factor], *, column: str = "matched", base: Cell = _NOISE_AND_OPTIMIZER
) -> pd.DataFrame:
    """What single factors, and noise and optimiser together, change with all other factors off.

    Rows, as far as their cells were run: from nothing to noise, to the optimiser and to both; and from `base` to it
    with each further factor (and with what that one needs: `reuse+rate` is four passes at the full rate).

    Columns first, second (names of cells), value, low, high, n.
    """
    values = _values(table, column)
    nothing: Cell = frozenset()
    pairs = [(nothing, frozenset({name})) for name in sorted(base)] + [(nothing, base)]
    pairs += [(base, base | needed_by(f.name) | {f.name}) for f in factors if f.name not in base]
    rows = []
    for first, second in pairs:
        if cell_name(first) in values and cell_name(second) in values:
            row = _row("", "", _difference(values, second, first))
            names = {"first": cell_name(first), "second": cell_name(second)}
            rows.append(names | {key: row[key] for key in ("value", "low", "high", "n")})
    return pd.DataFrame(rows, columns=["first", "second", "value", "low", "high", "n"])


def _values(table: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """cell -> value by seed."""
    wide = table.pivot(index="cell", columns="seed", values=column)
    return {str(cell): row.to_numpy(dtype=float) for cell, row in wide.iterrows()}


def _difference(values: dict[str, np.ndarray], with_: Cell, without: Cell) -> np.ndarray:
    return values[cell_name(with_)] - values[cell_name(without)]


def _shapley(values: dict[str, np.ndarray], factors: Sequence[Factor]) -> dict[str, np.ndarray]:
    sums = {factor.name: np.zeros(len(values["none"])) for factor in factors}
    count = 0
    for order in orders(factors):
        count += 1
        cell: Cell = frozenset()
        for name in order:
            sums[name] += _difference(values, cell | {name}, cell)
            cell |= {name}
    return {name: total / count for name, total in sums.items()}


def _row(factor: str, kind: str, by_seed: np.ndarray) -> dict[str, object]:
    known = by_seed[np.isfinite(by_seed)]
    if len(known) < 2:
        return {"factor": factor, "kind": kind, "value": np.nan, "low": np.nan, "high": np.nan, "n": len(known)}
    found = interval(known, over="seeds")
    return {
        "factor": factor,
        "kind": kind,
        "value": found.estimate,
        "low": found.low,
        "high": found.high,
        "n": len(known),
    }
