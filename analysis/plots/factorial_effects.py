"""Pictures of the factorial: paths of methods through (Pass@1, diversity), and what each factor contributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .appearance import look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["factor_effects", "interaction_grid", "metric_against_success"]

_KINDS = {"first in": ("o", "none", 0.22), "Shapley": ("D", "full", 0.0), "last out": ("s", "full", -0.22)}
_COLORS = {"first in": "#0072B2", "Shapley": "#000000", "last out": "#D55E00"}
_MEANINGS = {
    "first in": "switched on alone (first in)",
    "Shapley": "mean over all orders (Shapley)",
    "last out": "switched off alone (last out)",
}


def metric_against_success(
    ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, mark_every: int = 8
) -> None:
    """Draw a metric against Pass@1, one path for each method: thin for every seed, thick for their mean.

    Args:
        ax: axes to draw on.
        curves: for each method Pass@1 and the metric, (evaluations, seeds) each; a later method lies on top.
        mark_every: points between two markers.
    """
    for method, (x, y) in curves.items():
        style = look(method)
        ax.plot(x, y, color=style.color, linewidth=0.4, alpha=0.25)
        ax.plot(x.mean(1), y.mean(1), label=method, markevery=mark_every, **style.line())
    ax.set_xlabel("Pass@1 (mean over prompts)")


def factor_effects(ax: Axes, shares: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw the effect of each factor as dots with 95% intervals: first in, Shapley and last out.

    Args:
        ax: axes to draw on.
        shares: rows of `factor_shares`, with columns `factor`, `kind`, `value`, `low`, `high`.
        names: factors from top to bottom.
    """
    for row, name in enumerate(reversed(names)):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
        for kind, (marker, fill, offset) in _KINDS.items():
            effect = shares[(shares["factor"] == name) & (shares["kind"] == kind)]
            if not len(effect):
                continue
            value, low, high = (float(effect[c].iloc[0]) for c in ("value", "low", "high"))
            ax.errorbar(
                value,
                row + offset,
                xerr=[[value - low], [high - value]],
                marker=marker,
                color=_COLORS[kind],
                markerfacecolor="white" if fill == "none" else None,
                markeredgewidth=0.8,
                markersize=3.6,
                elinewidth=0.8,
                label=_MEANINGS[kind] if row == 0 else None,
            )
    reference_line(ax, axis="x")
    ax.set_yticks(range(len(names)), list(reversed(names)))
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="y", length=0)


def interaction_grid(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw pairwise interactions as a lower triangle of numbers, bold where the interval excludes 0.

    Args:
        ax: axes to draw on.
        table: one row a pair with columns `first`, `second`, `value`, `low`, `high`.
        names: factors in order.
    """
    limit = float(table["value"].abs().max()) or 1.0
    grid = np.full((len(names), len(names)), np.nan)
    for _, row in table.iterrows():
        i, j = sorted((names.index(row["first"]), names.index(row["second"])), reverse=True)
        grid[i, j] = row["value"]
        sure = row["low"] > 0 or row["high"] < 0
        ax.text(
            j,
            i,
            _signed(row["value"]),
            ha="center",
            va="center",
            fontsize=7,
            weight="bold" if sure else "normal",
            color="white" if abs(row["value"]) > 0.6 * limit else "black",
        )
    ax.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right")
    ax.set_yticks(range(1, len(names)), names[1:])
    ax.set_xlim(-0.5, len(names) - 1.5)
    ax.set_ylim(len(names) - 0.5, 0.5)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)


def _signed(value: float) -> str:
    """Two digits with a sign, which zero does not have.

    >>> _signed(-0.151), _signed(0.02), _signed(-0.004)
    ('−0.15', '+0.02', '0.00')
    """
    return "0.00" if round(value, 2) == 0 else f"{value:+.2f}".replace("-", "−")
