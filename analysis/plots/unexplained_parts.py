"""Prediction and outcome over training: what the first order leaves unexplained, and whose gradients it came from.

The prediction drawn here is the JVP of the actual parameter step, which is on the scale of the realised change. The
first-order law of a token's own direction has no such scale and is not drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .appearance import look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["part_lines", "unexplained"]

# part -> (label, colour, line style); a sign's colour is that of the method that learns from it alone
_PARTS: dict[str, tuple[str, str, str | tuple[int, tuple[float, ...]]]] = {
    "pos": ("rewarded", "#0072B2", "-"),
    "neg": ("unrewarded", "#D55E00", "-"),
    "reg": ("regularisers", "#009E73", "-"),
    "decay": ("weight decay", "#E69F00", "-"),
    "history": ("history", "#555555", (0, (1.2, 1.0))),
}


def unexplained(ax: Axes, data: pd.DataFrame) -> None:
    """Draw 1 − R² of the first order against the update on a logarithmic axis in per cent, one line for each method.

    The axis holds the lines; bands may leave it.

    Args:
        ax: axes to draw on.
        data: one row a point with columns `label`, `update`, and `value`, `low`, `high` of 1 − R².
    """
    for label, rows in data.groupby("label", sort=False):
        _line(ax, rows["update"], rows["value"], rows["low"], rows["high"], label=str(label), **look(str(label)).line())
    ax.set_yscale("log")
    highest = np.nanmax([data["high"].max(), 3 * data["value"].max()])
    ax.set_ylim(data["value"].min() / 3, min(highest, max(1.0, data["value"].max())) * 1.3)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:g}%"))
    _updates(ax)


def part_lines(ax: Axes, data: pd.DataFrame, *, among: pd.DataFrame | None = None) -> None:
    """Draw the fraction of the predicted change that each part of the step contributes, against the update.

    Fractions of all parts add to one; a part below 0 worked against the whole. The axis holds the lines; bands may
    leave it.

    Args:
        ax: axes to draw on.
        data: one row a point with columns `part` (pos, neg, reg, decay or history), `update`, `value`, `low`, `high`.
        among: the rows that the axis must hold, those of other panels for instance; `data` unless given.
    """
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
    ax: Axes, x: pd.Series, value: pd.Series, low: pd.Series, high: pd.Series, *, color: str, **line: Any
) -> None:
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    ax.plot(x, value, color=color, **line)


def _updates(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.margins(x=0.04)
