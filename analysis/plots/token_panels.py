"""One context (after Fig. 5 of arXiv 2506.01347): its most probable tokens before and after an update as bars, and the
logit gradient and the realised change as arrows.

Data: one row a token of one context, most probable first, with columns `text`, `sampled` (whether it is y), `before`
and `after` (probabilities), `gradient` (sign(w)·(e_y − π), the descent direction −∂L/∂z in units of |w|/T) and `dlogit`
(the realised Δz, shifted so that its mean under π is 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .appearance import SMALL, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["logit_arrows", "token_bars"]

BEFORE, AFTER = "#c6c6c6", "#4d4d4d"
UP, DOWN = "#0072B2", "#D55E00"


def token_bars(ax: Axes, data: pd.DataFrame, *, numbers: bool = False) -> None:
    """Draw probabilities before and after as a pair of bars for each token; the sampled one is bold with a star.

    Args:
        ax: axes to draw on.
        data: one row a token, as above.
        numbers: whether the change of each probability stands at the end of its bars.
    """
    at = np.arange(len(data))
    ax.barh(at - 0.19, data["before"], height=0.36, color=BEFORE, label="before")
    ax.barh(at + 0.19, data["after"], height=0.36, color=AFTER, label="after")
    ax.set_yticks(at, np.where(data["sampled"], "★ " + data["text"], data["text"]).tolist())
    for tick, sampled in zip(ax.get_yticklabels(), data["sampled"], strict=True):
        tick.set_fontweight("bold" if sampled else "normal")
    ax.set_ylim(len(data) - 0.45, -0.55)
    longest = data[["before", "after"]].max(axis=1).to_numpy(float)
    ax.set_xlim(0, (1.4 if numbers else 1.08) * float(longest.max()))
    ax.tick_params(axis="y", length=0)
    if numbers:
        for row, (end, change) in enumerate(zip(longest, data["after"] - data["before"], strict=True)):
            text = f"{change:+.3f}".replace("-", "−") if abs(change) >= 5e-4 else "±0"
            ax.annotate(text, (end, row), (3, 0), textcoords="offset points", va="center", fontsize=SMALL)


def logit_arrows(ax: Axes, data: pd.DataFrame, *, column: str) -> None:
    """Draw an arrow for each token from zero to its value: blue for up, vermilion for down, a dot where too short.

    Args:
        ax: axes to draw on.
        data: one row a token, as above.
        column: "gradient" or "dlogit".
    """
    values = data[column].to_numpy(float)
    widest = float(np.abs(values).max()) or 1.0
    reference_line(ax, axis="x")
    for at, value in enumerate(values):
        color = UP if value > 0 else DOWN
        if abs(value) < 0.12 * widest:
            ax.plot([value], [at], marker=".", color=color, markersize=3, linestyle="")
            continue
        ax.annotate(
            "",
            (value, at),
            (0, at),
            arrowprops={
                "arrowstyle": "-|>,head_width=0.16,head_length=0.32",
                "color": color,
                "linewidth": 1.3,
                "shrinkA": 0.0,
                "shrinkB": 0.0,
            },
        )
    ax.set_xlim(min(values.min(), 0) - 0.12 * widest, max(values.max(), 0) + 0.12 * widest)
    ax.set_ylim(len(data) - 0.45, -0.55)
    far = _round_down(widest) * (1 if values.max() >= -values.min() else -1)
    ax.set_xticks([0.0, far], ["0", f"{far:g}".replace("-", "−")])
    ax.tick_params(axis="y", length=0, labelleft=False, labelsize=SMALL)
    ax.spines["left"].set_visible(False)


def _round_down(value: float) -> float:
    """`value` to one digit, downwards.

    >>> _round_down(0.0789)
    0.07
    """
    power = int(np.floor(np.log10(value)))
    return round(float(np.floor(value / 10.0**power * (1 + 1e-9)) * 10.0**power), max(0, -power))
