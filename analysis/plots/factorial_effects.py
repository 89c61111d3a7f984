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


def metric_against_success(
    ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, mark_every: int = 8
) -> None:
    """One path a method: x Pass@1 and y a metric, (E, S) over evaluations and seeds; every seed thin, their mean thick.

    The methods of `curves` are drawn in order, so that a later one lies on top where they coincide.
    """
    for method, (x, y) in curves.items():
        style = look(method)
        ax.plot(x, y, color=style.color, linewidth=0.4, alpha=0.25)
        ax.plot(x.mean(1), y.mean(1), label=method, markevery=mark_every, **style.line())
    ax.set_xlabel("Pass@1 (mean over prompts)")


def factor_effects(ax: Axes, shares: pd.DataFrame, names: Sequence[str]) -> None:
    """Effects of the rows of `factor_shares` as dots with their 95% intervals, a line for each factor of `names`."""
    for row, name in enumerate(reversed(names)):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
        for kind, (marker, fill, offset) in _KINDS.items():
            found = shares[(shares["factor"] == name) & (shares["kind"] == kind)]
            if not len(found):
                continue
            value, low, high = (float(found[c].iloc[0]) for c in ("value", "low", "high"))
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
                label=kind if row == 0 else None,
            )
    reference_line(ax, axis="x")
    ax.set_yticks(range(len(names)), list(reversed(names)))
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="y", length=0)


def interaction_grid(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Pairwise interactions as a lower triangle of numbers; those whose interval excludes 0 in bold."""
    limit = float(table["value"].abs().max()) or 1.0
    grid = np.full((len(names), len(names)), np.nan)
    for _, row in table.iterrows():
        i, j = sorted((names.index(row["first"]), names.index(row["second"])), reverse=True)
        grid[i, j] = row["value"]
        sure = row["low"] > 0 or row["high"] < 0
        ax.text(
            j,
            i,
            f"{row['value']:+.2f}",
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
