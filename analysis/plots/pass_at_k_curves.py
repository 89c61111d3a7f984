"""Pass@k against k (after Fig. 2 of arXiv 2506.01347), and its difference from the base.

Data: one row a point, with columns `label` (the method, or base), `k`, `value`, `low` and `high` (its interval).

Pass@k approaches 1 for every method as k grows, so that the failures are what differs. Its axis is therefore spaced by
−log₁₀(1 − Pass@k): from 0.9 to 0.99 is as far as from 0 to 0.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .appearance import BASE, look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FAILURE_FLOOR", "pass_at_k", "pass_at_k_difference"]

TICKS = (0.0, 0.2, 0.35, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
FAILURE_FLOOR = 1e-4  # a smaller 1 − Pass@k is drawn as this


def pass_at_k(ax: Axes, data: pd.DataFrame, *, among: pd.DataFrame | None = None) -> None:
    """Draw Pass@k of each method with its interval as a band, on an axis spaced by failures.

    Args:
        ax: axes to draw on.
        data: one row a point, as above.
        among: the curves that the axis must hold, those of other panels for instance; `data` unless given.
    """
    _lines(ax, data)
    ax.set_yscale("function", functions=(_to_failures, _from_failures))
    among = data if among is None else among
    lowest = float(np.nanmin([among["value"].min(), among["low"].min()]))
    # intervals may reach 1, which is infinitely far up: the axis ends where the failures are half of the fewest
    highest = min(float(among["value"].max() + 1) / 2, 1 - FAILURE_FLOOR)
    low, high = _to_failures(np.array([lowest, highest]))
    room = 0.04 * (high - low)
    ax.set_ylim(float(_from_failures(low - room)), float(_from_failures(high + room)))
    ticks: list[float] = []
    for tick in reversed(TICKS):
        at = _to_failures(tick)
        below_last = not ticks or _to_failures(ticks[-1]) - at > 0.07 * (high - low)
        if low - room <= at <= high + room and below_last:
            ticks.append(tick)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def pass_at_k_difference(ax: Axes, data: pd.DataFrame) -> None:
    """Draw Pass@k minus the base's for each method, with the interval of the paired difference as a band.

    Args:
        ax: axes to draw on.
        data: one row a point, as above, of differences; rows of the base are left out.
    """
    reference_line(ax)
    _lines(ax, data[data["label"] != BASE])


def _lines(ax: Axes, data: pd.DataFrame) -> None:
    for label, rows in data.groupby("label", sort=False):
        shape = look(str(label))
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        if np.isfinite(low).any():
            ax.fill_between(rows["k"], low, high, color=shape.color, alpha=0.1, linewidth=0)
        ax.plot(rows["k"], rows["value"], **shape.line(), markersize=2.2, label=str(label))
    ax.set_xscale("log", base=2)
    ticks = [k for k in (1, 4, 16, 64, 256, 1024) if data["k"].min() <= k <= data["k"].max()]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.margins(x=0.02)


def _to_failures(p: ArrayLike) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(p, float), FAILURE_FLOOR / 10))


def _from_failures(y: ArrayLike) -> Any:
    return 1 - 10 ** -np.asarray(y, float)
