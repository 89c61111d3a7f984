"""Where the probability went: change of mass by rank bucket over training.

Buckets hold the tokens of ranks 1, 2–4, 5–16, … before an update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.ticker import MaxNLocator

from .appearance import BUCKET_COLORS, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bucket_flow"]

_MARKERS = "osD^vP"


def bucket_flow(ax: Axes, data: pd.DataFrame) -> None:
    """Draw the change of each rank bucket's mass, summed over the updates so far, one line for each bucket.

    Args:
        ax: axes to draw on.
        data: one row a point with columns `bucket`, `update`, `value`, `low`, `high`; buckets in order of rank.
    """
    reference_line(ax)
    for i, (bucket, rows) in enumerate(data.groupby("bucket", sort=False)):
        color = BUCKET_COLORS[i]
        if rows["low"].notna().any():
            ax.fill_between(rows["update"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        every = max(1, len(rows) // 5)
        ax.plot(rows["update"], rows["value"], color=color, marker=_MARKERS[i], markevery=every, label=str(bucket))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.margins(x=0.02)
