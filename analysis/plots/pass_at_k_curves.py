"""Pass@k against k (after Fig. 2 of arXiv 2506.01347), and its difference from the base.

Data: one row a point, with columns `label` (the method, or base), `k`, `value`, `low` and `high` (its interval).

Pass@k approaches 1 for every method as k grows, so that the failures are what differs. Its axis is therefore spaced by
−log₁₀(1 − Pass@k): from 0.9 to 0.99 is as far as from 0 to 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .appearance import BASE, SMALL, look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FAILURE_FLOOR", "pass_at_k", "pass_at_k_difference", "pass_bands", "pass_crossing"]

TICKS = (0.0, 0.2, 0.35, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
_CHECKPOINTS = ("#0072B2", "#D55E00")  # of two files: blue the first, vermilion the second
_MARKED = 12  # points up to which a line has markers
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


def pass_bands(ax: Axes, data: pd.DataFrame, *, colors: Sequence[str] = _CHECKPOINTS) -> None:
    """Draw Pass@k, or differences of it, on plain axes over log₂ k: bands for intervals, names at the ends of lines.

    Args:
        ax: axes to draw on.
        data: one row a point, as above.
        colors: of the labels in turn.
    """
    ends: list[tuple[float, float, float, str, str]] = []
    for i, (label, rows) in enumerate(data.groupby("label", sort=False)):
        color = colors[i % len(colors)]
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        if np.isfinite(low).any():
            ax.fill_between(rows["k"], low, high, color=color, alpha=0.15, linewidth=0)
        marker = "os"[i % 2] if len(rows) <= _MARKED else ""
        ax.plot(rows["k"], rows["value"], color=color, marker=marker, label=str(label))
        value = float(rows["value"].iloc[-1])
        below, above = (value if np.isnan(end[-1]) else float(end[-1]) for end in (low, high))
        ends.append((value, below, above, str(label), color))
    ax.set_xscale("log", base=2)
    last = int(data["k"].max())
    ticks = [2**i for i in range(last.bit_length()) if 2**i <= last]
    ticks = ticks[:: 1 + (len(ticks) - 1) // 6]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.margins(x=0.02)
    if len(ends) > 1:
        upper = max(range(len(ends)), key=lambda place: ends[place][0])
        for place, (_, low_end, high_end, label, color) in enumerate(ends):
            shift = 3 if place == upper else -3
            ax.annotate(
                label,
                (last, high_end if place == upper else low_end),  # outside of the band
                xytext=(-2, shift),
                textcoords="offset points",
                ha="right",
                va="bottom" if place == upper else "top",
                fontsize=SMALL,
                color=color,
            )


def pass_crossing(ax: Axes, at: float, *, low: float | None, high: float | None) -> None:
    """Draw the k at which two curves cross as a dashed line, and its interval as a grey band.

    Args:
        ax: axes to draw on, of `pass_bands`.
        at: the k.
        low: lower end of the interval; None where it is open.
        high: upper end; None where it is open.
    """
    left, right = ax.get_xlim()
    if low is not None or high is not None:
        ax.axvspan(left if low is None else low, right if high is None else high, color="#dddddd", zorder=-1)
    ax.axvline(at, color="#555555", linewidth=0.8, linestyle=(0, (3.0, 2.0)), zorder=0)
    ax.set_xlim(left, right)


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
