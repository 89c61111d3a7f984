"""The phase plane of a sampled token: its probability π_y against c = Σπ² of its context.

Where a token can be: π_y² ≤ c ≤ π_y² + (1 − π_y)², from alternatives that share the rest evenly to a single one.

    squeeze        c = π_y. Above it a negative sample pushes the alternatives with π_v < c − π_y down as well as y, and
                   only the head gains; below it every alternative gains
    entropy sign   the entropy rises under a negative sample where Cov = π_y(log π_y + H) − S − cH > 0, see
                   `analysis.laws`. That depends on more than π_y and c. With equally likely alternatives the line is
                   the squeeze boundary itself; the line drawn is that of geometric alternatives, q_v ∝ r^v, for every
                   r, which lies a little below it. The colour of a token is its own sign, which is exact

Tokens are from records; the lines from the laws alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..laws.boundaries import entropy_sign_boundary
from .appearance import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["entropy_sign_curve", "phase_plane"]

RAISES, LOWERS = ("#0072B2", "o"), ("#D55E00", "X")  # colour and marker, by what a negative sample does to the entropy
MOST_TOKENS = 1500  # that are drawn; of more, evenly many are
_ALTERNATIVES = 400  # tokens of the geometric family, more than reach a mass that can be seen


def entropy_sign_curve(points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Where Cov changes sign for geometric alternatives, q_v ∝ r^v.

    Args:
        points: how many ratios r, from a single alternative (r → 0) to nearly equal ones.

    Returns:
        π_y and c along the line, each of that length, by rising r.

    Example:
        >>> y, c = entropy_sign_curve(3)
        >>> bool((c < y).all()), round(float(y[0]), 2)  # a single alternative: the even coin, π_y = c = 1/2
        (True, 0.5)
    """
    found = []
    for ratio in np.linspace(0.01, 0.99, points):
        rest = ratio ** np.arange(_ALTERNATIVES)
        rest = rest[rest > 1e-300]
        rest /= rest.sum()
        y = entropy_sign_boundary(rest)
        found.append((y, y**2 + (1 - y) ** 2 * float((rest**2).sum())))
    curve = np.array(found)
    return curve[:, 0], curve[:, 1]


def phase_plane(ax: Axes, data: pd.DataFrame) -> None:
    """Draw tokens in the plane of π_y and c, the region that they can be in, and both boundaries.

    Args:
        ax: axes to draw on.
        data: one row a token with columns `prob` (π_y), `collision` (c) and `raises` (whether a negative sample of the
            token raises the entropy, by its own Cov). Of more than `MOST_TOKENS` every n-th is drawn.

    Raises:
        UsageError: no token, or one that no distribution has.
    """
    y, c = data["prob"].to_numpy(float), data["collision"].to_numpy(float)
    if not len(y):
        raise UsageError("data: expected at least one token, got none")
    slack = 1e-4  # float32 sums over a vocabulary
    wrong = ~((y >= 0) & (y <= 1 + slack) & (c >= y**2 - slack) & (c <= y**2 + (1 - y) ** 2 + slack))
    if wrong.any():
        at = int(wrong.argmax())
        raise UsageError(
            f"data: expected π_y² ≤ c ≤ π_y² + (1 − π_y)², got π_y = {y[at]:g} and c = {c[at]:g} in row {at}; "
            "collision is Σπ² of the same distribution, at the same temperature"
        )
    _region(ax)
    line_y, line_c = entropy_sign_curve()
    ax.plot([0, 1], [0, 1], color="#222222", linewidth=1.0)
    ax.plot(line_y, line_c, color="#222222", linewidth=1.0, linestyle=(0, (4, 2)))
    every = -(-len(data) // MOST_TOKENS)
    raises = data["raises"].to_numpy(bool)
    for (color, marker), rows, text in ((RAISES, raises, "raises"), (LOWERS, ~raises, "lowers")):
        drawn = np.flatnonzero(rows)[::every]
        label = f"it {text} the entropy"
        ax.plot(y[drawn], c[drawn], linestyle="", marker=marker, markersize=2.6, alpha=0.45, color=color, label=label)
    legend = ax.legend(loc="lower right", handletextpad=0.2, borderaxespad=0.3, markerscale=1.5)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")
    ax.set_xlabel(r"$\pi(y)$ of the sampled token")
    ax.set_ylabel(r"$c = \Sigma\pi^2$ of its context")


def _region(ax: Axes) -> None:
    """Shade where no token can be, and name both sides of the squeeze boundary."""
    grid = np.linspace(0, 1, 201)
    outside: dict[str, Any] = {"color": "#efefef", "linewidth": 0, "zorder": 0}
    ax.fill_between(grid, 0, grid**2, **outside)
    ax.fill_between(grid, grid**2 + (1 - grid) ** 2, 1, **outside)
    text: dict[str, Any] = {"fontsize": SMALL, "color": "#333333", "ha": "center", "va": "center"}
    ax.text(0.53, 0.87, "above the line a negative sample\nlifts the head alone", **text)
    ax.text(0.77, 0.32, "below it,\nall alternatives", **text)
    ax.text(0.66, 0.7, r"squeeze boundary $c = \pi(y)$", rotation=45, rotation_mode="anchor", **text)
    y, c = entropy_sign_curve(9)
    at = len(y) // 2
    ax.annotate("entropy sign", (y[at], c[at]), (0.38, 0.05), arrowprops=_POINTER, **text)
    ax.text(0.53, 0.965, "(grey: no distribution)", **text | {"color": "#777777"})


_POINTER: dict[str, Any] = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkB": 1.0}
