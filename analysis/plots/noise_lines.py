"""Gradient noise against the success probability p: the ratio of two methods' noise, which crosses 1, and noise itself.

Data: one row a point, with columns `label`, `p`, `value`, `low` and `high` (its interval), in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .appearance import SMALL, look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["crossing_mark", "noise_curve"]

_SPAN = "#dddddd"


def noise_curve(ax: Axes, data: pd.DataFrame) -> None:
    """Draw one line for each method over p with the interval of each point as a bar, on a logarithmic axis.

    Args:
        ax: axes to draw on.
        data: one row a point, as above.
    """
    for label, rows in data.groupby("label", sort=False):
        rows, shape = rows.sort_values("p"), look(str(label))
        value = rows["value"].to_numpy(float)
        around = [value - rows["low"].to_numpy(float), rows["high"].to_numpy(float) - value]
        ax.errorbar(
            rows["p"].to_numpy(float), value, yerr=around, **shape.line(), elinewidth=0.8, capsize=0, label=str(label)
        )
    ax.set_yscale("log")
    ax.set_xlim(0, 1)


def crossing_mark(ax: Axes, *, at: float | None, low: float | None, high: float | None) -> None:
    """Draw a line at the ratio 1, the crossing as a dashed line and its interval as a grey band.

    Args:
        ax: axes to draw on.
        at: the p of the crossing; None where there is none.
        low: lower end of its interval; None where it is open.
        high: upper end of its interval; None where it is open.
    """
    reference_line(ax, 1.0)
    if at is None:
        return
    ax.axvspan(0.0 if low is None else low, 1.0 if high is None else high, color=_SPAN, linewidth=0, zorder=-1)
    ax.axvline(at, color="#555555", linewidth=0.8, linestyle=(0, (3.0, 2.0)), zorder=0)
    ax.annotate(
        f"p* = {at:.2f}",
        (at, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -8),
        textcoords="offset points",
        fontsize=SMALL,
        color="#555555",
    )
