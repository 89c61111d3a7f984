"""Training dynamics (after Fig. 4 of arXiv 2506.01347): a quantity against training time, and against another quantity.

Data: one row a point, with columns `label` (the method), the x column, `value`, and `low` and `high`, the ends of its
interval (missing where there is none). Rows of a label are in time order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .appearance import look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve", "gap", "path"]

MARKERS_UP_TO = 12  # points; longer series are lines, their markers would run together


def curve(ax: Axes, data: pd.DataFrame, *, x: str, interval: Literal["band", "last"] = "band") -> None:
    """Draw one line for each method against the column `x`, with its interval.

    Args:
        ax: axes to draw on.
        data: one row a point, as above.
        x: column of the horizontal axis.
        interval: "band" for a band of the same colour; "last" for a bar at the last point, where the bands of many
            methods would hide each other.
    """
    for label, rows in data.groupby("label", sort=False):
        shape = look(str(label))
        at, low, high = (rows[name].to_numpy(float) for name in (x, "low", "high"))
        if interval == "last" and np.isfinite(low[-1]):
            ax.vlines(at[-1], low[-1], high[-1], color=shape.color, linewidth=0.8)
        elif interval == "band" and np.isfinite(low).any():
            ax.fill_between(at, low, high, color=shape.color, alpha=0.15, linewidth=0)
        marker = shape.marker if len(rows) <= MARKERS_UP_TO else ""
        ax.plot(
            at,
            rows["value"].to_numpy(float),
            color=shape.color,
            linestyle=shape.linestyle,
            marker=marker,
            label=str(label),
        )
    ax.margins(x=0.02)


_GAPS = (("#000000", "o", "-"), ("#8A5FBF", "s", (0, (5.0, 1.2))))


def gap(ax: Axes, data: pd.DataFrame, *, x: str) -> None:
    """Draw the difference of two methods against the column `x`, with its interval as a band and a line at zero.

    Args:
        ax: axes to draw on.
        data: one row a point, as above, with a column `quantity`; one line for each quantity.
        x: column of the horizontal axis.
    """
    reference_line(ax)
    for (quantity, rows), (color, marker, linestyle) in zip(data.groupby("quantity", sort=False), _GAPS, strict=False):
        at, value, low, high = (rows[name].to_numpy(float) for name in (x, "value", "low", "high"))
        if np.isfinite(low).any():
            ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(at, value, color=color, marker=marker, linestyle=linestyle, label=str(quantity))
    ax.margins(x=0.02)


def path(ax: Axes, data: pd.DataFrame, *, x: str) -> None:
    """Draw the path of each method through the plane of `x` and `value`, with an arrow on each leg in order of time.

    The last point carries the interval of `value` as a bar. Points without both coordinates are left out.

    Args:
        ax: axes to draw on.
        data: one row a point, as above.
        x: column of the horizontal axis.
    """
    for label, rows in data.groupby("label", sort=False):
        shape = look(str(label))
        rows = rows.dropna(subset=[x, "value"])
        at, value = rows[x].to_numpy(float), rows["value"].to_numpy(float)
        if not len(rows):
            continue
        ax.plot(
            at,
            value,
            color=shape.color,
            linestyle=shape.linestyle,
            linewidth=0.9,
            marker=shape.marker,
            label=str(label),
        )
        for start, end in zip(np.column_stack([at, value])[:-1], np.column_stack([at, value])[1:], strict=True):
            middle = start + 0.62 * (end - start)
            ax.annotate(
                "",
                middle,
                start,
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.22,head_length=0.44",
                    "color": shape.color,
                    "linewidth": 0.0,
                    "shrinkA": 0.0,
                    "shrinkB": 0.0,
                },
            )
        last = rows.iloc[-1]
        if np.isfinite(float(last["low"])):
            ax.vlines(at[-1], float(last["low"]), float(last["high"]), color=shape.color, linewidth=0.8)
    ax.margins(0.06)
