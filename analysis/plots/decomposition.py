"""What makes NSR and PSR differ: shares of each factor at several accuracies, and interactions of pairs.

Data are rows with columns factor, place, value, low, high and adjusted (Holm's p; NaN where there is none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .appearance import PAGE_INCHES, SMALL, caption, heading, legend, reference_line, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["decomposition_figure", "share_dots"]

# Accuracy by lightness, the exact policy in grey: colours of Okabe and Ito.
_COLORS = ("#56B4E9", "#0072B2", "#00204d", "#E69F00", "#8C564B")
_MARKERS = ("o", "s", "D", "^", "v")
_EXACT_COLOR = "#777777"
_LEVEL = 0.05


def share_dots(
    ax: Axes,
    shares: pd.DataFrame,
    factors: Mapping[str, str],
    places: Mapping[str, str],
    exact: Mapping[str, float] | None = None,
    *,
    exact_label: str = "exact policy",
) -> None:
    """Draw the share of each factor as a dot for each place, with its 95% interval; filled where Holm's p is below 5%.

    Args:
        ax: Axes to draw on.
        shares: One row for each factor and place.
        factors: factor -> what it is called, from top to bottom.
        places: place -> what it is called, from top to bottom within a factor.
        exact: factor -> its share on an exact policy, drawn as a cross, at the edge where it is beyond the scale of the
            others; unset: none.
        exact_label: What the legend calls the crosses.
    """
    names = list(factors)
    gap = 0.8 / max(1, len(places) + (exact is not None) - 1)
    for i, name in enumerate(names):
        row = len(names) - 1 - i
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0, linewidth=0)
        for j, (place, label) in enumerate(places.items()):
            found = shares[(shares["factor"] == name) & (shares["place"] == place)]
            known = len(found) == 1 and pd.notna(found["value"].iloc[0])
            value, low, high = (float(found[c].iloc[0]) if known else float("nan") for c in ("value", "low", "high"))
            sure = known and bool(found["adjusted"].iloc[0] < _LEVEL)
            color = _COLORS[j % len(_COLORS)]
            ax.errorbar(
                [value],
                [row + 0.4 - gap * j],
                xerr=[[value - low], [high - value]],
                marker=_MARKERS[j % len(_MARKERS)],
                linestyle="none",
                color=color,
                markerfacecolor=color if sure else "white",
                markeredgewidth=0.9,
                markersize=4.2,
                elinewidth=0.9,
                label=label if row == 0 else None,
            )
    reference_line(ax, axis="x")
    ax.set_yticks(range(len(names)), [factors[name] for name in reversed(names)])
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="y", length=0)
    if exact is not None:
        at = {
            name: (value, len(names) - 1 - names.index(name) + 0.4 - gap * len(places)) for name, value in exact.items()
        }
        _exact_crosses(ax, at, exact_label)


def _exact_crosses(ax: Axes, at: Mapping[str, tuple[float, float]], label: str) -> None:
    """Crosses on the scale that the others set; one beyond it stands at the edge with its number."""
    low, high = ax.get_xlim()
    low, high = min(low, -0.1 * (high - low)), max(high, 0.1 * (high - low))
    for i, (value, height) in enumerate(at.values()):
        shown = min(max(value, low), high)
        drawn: dict[str, Any] = {
            "linestyle": "none",
            "color": _EXACT_COLOR,
            "markersize": 4.5,
            "markeredgewidth": 1.1,
            "clip_on": False,
        }
        ax.plot([shown], [height], marker="x", label=label if i == 0 else None, **drawn)
        if shown != value:
            side = "right" if value > high else "left"
            offset = (-5 if side == "right" else 5, 0)
            ax.annotate(
                f"{value:+.2g} →" if side == "right" else f"← {value:+.2g}",
                (shown, height),
                xytext=offset,
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=SMALL,
                color=_EXACT_COLOR,
            )
    ax.set_xlim(low, high)


def decomposition_figure(
    shares: pd.DataFrame,
    factors: Mapping[str, str],
    places: Mapping[str, str],
    metrics: Mapping[str, tuple[str, str]],
    exact: Mapping[str, Mapping[str, float]],
    *,
    note: str,
    exact_label: str = "exact policy",
) -> Figure:
    """The shares of each factor, one panel a metric, at the width of a page.

    Args:
        shares: Rows of all metrics, with a column metric besides those of the module.
        factors: factor -> what it is called.
        places: place -> what it is called.
        metrics: metric -> its heading and the label of its axis, from left to right.
        exact: metric -> factor -> share on an exact policy; a metric may be left out.
        note: The caption.
        exact_label: What the legend calls the exact policy.
    """
    from matplotlib.figure import Figure

    letters: Sequence[str] = "abcd"
    with style():
        figure = Figure(figsize=(PAGE_INCHES, 1.35 + 0.5 * len(factors)), layout="constrained")
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for ax, letter, (metric, (title, text)) in zip(axes, letters, metrics.items(), strict=False):
            rows = shares[shares["metric"] == metric]
            share_dots(ax, rows, factors, places, exact.get(metric), exact_label=exact_label)
            heading(ax, f"{letter}  {title}")
            ax.set_xlabel(text)
        legend(figure, axes)
        caption(figure, note)
    return figure
