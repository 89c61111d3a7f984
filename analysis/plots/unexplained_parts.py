"""Prediction and outcome over training: what the first order leaves unexplained, and whose gradients it came from.

The prediction drawn here is the JVP of the actual parameter step, which is on the scale of the realised change. The law
(a token's own direction) has no such scale and is not drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from .appearance import reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["part_lines", "unexplained"]

_QUANTITIES = (("#000000", "o"), ("#8A5FBF", "s"))
# part -> (label, colour, line style); a sign's colour is that of the method that learns from it alone
_PARTS: dict[str, tuple[str, str, str | tuple[int, tuple[float, ...]]]] = {
    "pos": ("rewarded", "#0072B2", "-"),
    "neg": ("unrewarded", "#D55E00", "-"),
    "reg": ("regularisers", "#009E73", "-"),
    "decay": ("weight decay", "#E69F00", "-"),
    "history": ("history", "#555555", (0, (1.2, 1.0))),
}


def unexplained(ax: Axes, data: pd.DataFrame, *, among: pd.DataFrame | None = None) -> None:
    """1 − R² against `update` on a logarithmic axis: columns `quantity`, `update`, and `value`, `low`, `high` of the
    R². The axis holds the lines of `among` (the data itself unless given); bands may leave it."""
    for (quantity, rows), (color, marker) in zip(data.groupby("quantity", sort=False), _QUANTITIES, strict=False):
        _line(
            ax,
            rows["update"],
            1 - rows["value"],
            1 - rows["high"],
            1 - rows["low"],
            color=color,
            marker=marker,
            label=str(quantity),
        )
    ax.set_yscale("log")
    values = 1 - (data if among is None else among)["value"]
    ax.set_ylim(values.min() / 3, values.max() * 3)
    _updates(ax)


def part_lines(ax: Axes, data: pd.DataFrame, *, among: pd.DataFrame | None = None) -> None:
    """Shares against `update`, one line a part: columns `part` (pos, neg, reg, decay or history), `update`, `value`,
    `low`, `high`. Shares of sources add to one; one below 0 worked against the whole. The axis holds the lines of
    `among` (the data itself unless given); bands may leave it."""
    reference_line(ax)
    reference_line(ax, 1.0)
    for part, (label, color, line) in _PARTS.items():
        rows = data[data["part"] == part]
        if len(rows):
            _line(
                ax, rows["update"], rows["value"], rows["low"], rows["high"], color=color, linestyle=line, label=label
            )
    values = (data if among is None else among)["value"]
    ax.set_ylim(min(values.min(), 0) - 0.2, max(values.max(), 1) + 0.2)
    _updates(ax)


def _line(
    ax: Axes, x: pd.Series, value: pd.Series, low: pd.Series, high: pd.Series, *, color: str, **look: Any
) -> None:
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    ax.plot(x, value, color=color, **look)


def _updates(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.margins(x=0.04)
