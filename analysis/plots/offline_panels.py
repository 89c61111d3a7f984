"""Pictures of recorded rollouts: where tokens sit against the boundaries of the laws, and what objectives would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .appearance import SMALL, look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

__all__ = ["carrying_tokens", "collision_density", "rank_flow", "rarity_density"]

_CELLS = 42  # hexagons across
_LEAST = 1e-6  # of a probability that is drawn; what is less is drawn there
_LINE: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.0}


def collision_density(ax: Axes, data: pd.DataFrame) -> PolyCollection:
    """Draw tokens by π_y and c = Σπ² on logarithmic axes, with the collision crossing c = π_y as a line.

    Above the line a negative sample of the token drains the tail as well.

    Args:
        ax: axes to draw on.
        data: one row a token with columns `prob` (π_y) and `collision` (c).

    Returns:
        The shades: numbers of tokens on a logarithmic scale, for a colour bar.
    """
    x, y = data["prob"].clip(lower=_LEAST), data["collision"].astype(float)
    low = float(y.min()) / 1.5
    shade = ax.hexbin(
        x,
        y,
        gridsize=(_CELLS, _CELLS // 2),
        xscale="log",
        yscale="log",
        bins="log",
        mincnt=1,
        cmap="cividis_r",
        linewidths=0,
        extent=(np.log10(_LEAST), 0, np.log10(low), 0),
    )
    ax.plot([low, 1], [low, 1], **_LINE)
    ax.set_xlim(_LEAST, 1.3)
    ax.set_ylim(low, 1.15)
    ax.set_xlabel(r"$\pi(y)$")
    ax.set_ylabel(r"$c = \Sigma\pi^2$")
    return shade


def rarity_density(ax: Axes, data: pd.DataFrame) -> PolyCollection:
    """Draw tokens by π_y (logarithmic) and entropy H, with π_y = e^{−H} as a line.

    To the left of the line a negative sample of the token lowers the entropy.

    Args:
        ax: axes to draw on.
        data: one row a token with columns `prob` (π_y) and `entropy` (nats).

    Returns:
        The shades: numbers of tokens on a logarithmic scale, for a colour bar.
    """
    x, y = data["prob"].clip(lower=_LEAST), data["entropy"].astype(float)
    top = max(1.05 * float(y.max()), 1e-3)
    shade = ax.hexbin(
        x,
        y,
        gridsize=(_CELLS, _CELLS // 2),
        xscale="log",
        bins="log",
        mincnt=1,
        cmap="cividis_r",
        linewidths=0,
        extent=(np.log10(_LEAST), 0, 0, top),
    )
    h = np.linspace(0, top, 100)
    ax.plot(np.exp(-h), h, **_LINE)
    ax.set_xlim(_LEAST, 1.3)
    ax.set_ylim(-0.01 * top, top)
    ax.set_xlabel(r"$\pi(y)$")
    ax.set_ylabel("entropy (nats)")
    return shade


def rank_flow(ax: Axes, data: pd.DataFrame) -> None:
    """Draw the change of probability mass by rank bucket, one bar for each label, with its interval.

    Args:
        ax: axes to draw on.
        data: one row a bar with columns `label`, `bucket`, `value`, `low`, `high`; a label whose values are all zero is
            left out.
    """
    labels = [label for label, rows in data.groupby("label", sort=False) if rows["value"].any()]
    buckets = list(dict.fromkeys(data["bucket"]))
    width = 0.8 / max(len(labels), 1)
    for i, label in enumerate(labels):
        rows = data[data["label"] == label]
        at = np.arange(len(buckets)) + (i - (len(labels) - 1) / 2) * width
        value = rows["value"].to_numpy(float)
        ends = np.vstack([value - rows["low"], rows["high"] - value])
        ax.bar(at, value, width=0.92 * width, color=look(str(label)).color, linewidth=0, label=str(label))
        if np.isfinite(ends).all():
            ax.errorbar(at, value, yerr=ends, fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.2)
    reference_line(ax)
    ax.set_xticks(range(len(buckets)), buckets, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_xlabel("rank before the step")


def carrying_tokens(ax: Axes, data: pd.DataFrame, *, label: str, limit: float) -> None:
    """Draw fractions of the gradient by token as bars with their intervals, the greatest on top.

    Args:
        ax: axes to draw on.
        data: one row a token with columns `text`, `value`, `low`, `high`.
        label: method whose colour the bars have.
        limit: end of the axis.
    """
    at, value = np.arange(len(data)), data["value"].to_numpy(float)
    ax.barh(at, value, height=0.72, color=look(label).color, linewidth=0)
    ends = np.vstack([value - data["low"], data["high"] - value])
    if np.isfinite(ends).all():
        ax.errorbar(value, at, xerr=ends, fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.2)
    ax.set_yticks(at, [text.replace("$", r"\$") for text in data["text"]], fontsize=SMALL)
    ax.set_ylim(len(data) - 0.45, -0.55)
    ax.set_xlim(0, limit)
    ax.tick_params(axis="y", length=0)
