"""Where the probability went: mass by rank bucket over training, beside its two predictions.

Buckets hold the tokens of ranks 1, 2–4, 5–16, … before an update. What is drawn on the scale of probability is the
realised change and the JVP of the actual parameter step. The law (a token's own direction) has no scale once an
optimiser and shared parameters stand in between, so it is shown by agreement only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .appearance import BUCKET_COLORS, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bucket_flow", "law_agreement", "realised_and_jvp"]

_MARKERS = "osD^vP"
LINEAR_UP_TO, TICK = 1e-5, 1e-2
SIGNS, RANKS = "#0072B2", "#D55E00"


def bucket_flow(ax: Axes, data: pd.DataFrame) -> None:
    """One line a rank bucket against `update`: columns `bucket`, `update`, `value`, `low`, `high`; a bucket's mass
    change summed over the updates so far."""
    reference_line(ax)
    for i, (bucket, rows) in enumerate(data.groupby("bucket", sort=False)):
        color = BUCKET_COLORS[i]
        if rows["low"].notna().any():
            ax.fill_between(rows["update"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        every = max(1, len(rows) // 5)
        ax.plot(rows["update"], rows["value"], color=color, marker=_MARKERS[i], markevery=every, label=str(bucket))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.margins(x=0.02)


def realised_and_jvp(ax: Axes, data: pd.DataFrame, *, limit: float | None = None) -> None:
    """Realised change of a bucket's mass against the JVP of the step, one point a context and update: columns `bucket`,
    `realised`, `jvp`. Both axes go to ±`limit`, the largest change unless given, and are logarithmic beyond
    ±`LINEAR_UP_TO`; on the diagonal the first order is all."""
    if limit is None:
        limit = float(np.abs(data[["realised", "jvp"]].to_numpy()).max(initial=LINEAR_UP_TO))
    limit = 1.3 * max(limit, 2 * TICK)
    ax.plot([-limit, limit], [-limit, limit], color="#999999", linewidth=0.6, zorder=0)
    for i, (_, rows) in enumerate(data.groupby("bucket", sort=False)):
        ax.plot(
            rows["jvp"],
            rows["realised"],
            linestyle="",
            marker=".",
            markersize=1.6,
            alpha=0.5,
            color=BUCKET_COLORS[i],
            rasterized=True,
        )
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("symlog", linthresh=LINEAR_UP_TO, linscale=0.5)
        axis.set_major_locator(FixedLocator([-TICK, 0, TICK]))
        axis.set_major_formatter(FuncFormatter(_power_of_ten))
        axis.set_minor_locator(NullLocator())
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)


def _power_of_ten(value: float, _position: int) -> str:
    return "0" if value == 0 else f"{'−' if value < 0 else ''}$10^{{{np.log10(abs(value)):.0f}}}$"


def law_agreement(ax: Axes, data: pd.DataFrame) -> None:
    """How the law's direction met the realised change: columns `quantity`, `sign` (of the reward), `net_sign` (share of
    contexts that moved in its direction minus share that did not) and `spearman`. Both lie in [−1, 1], and 0 is no
    relation; triangles point up for contexts of rewarded responses and down for others."""
    reference_line(ax)
    quantities = list(dict.fromkeys(data["quantity"]))
    signs = sorted({int(sign) for sign in data["sign"]}, reverse=True)
    for label, color in (("agreeing − opposed", SIGNS), ("rank correlation", RANKS)):
        ax.plot([], [], color=color, label=label)
    for sign in signs:
        rows = data[data["sign"] == sign]
        at = rows["quantity"].map(quantities.index) + (0.0 if len(signs) == 1 else -0.09 * sign)
        for shift, name, color in ((-0.18, "net_sign", SIGNS), (0.18, "spearman", RANKS)):
            ax.vlines(at + shift, 0, rows[name], color=color, linewidth=0.8)
            ax.plot(at + shift, rows[name], color=color, marker="^" if sign > 0 else "v", linestyle="")
    ax.set_xticks(range(len(quantities)), quantities, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.5, len(quantities) - 0.5)
    ax.set_ylim(-1.08, 1.08)
    ax.set_yticks([-1, 0, 1])
