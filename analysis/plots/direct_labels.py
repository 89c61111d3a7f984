"""Names beside the ends of lines, so that no reader looks from a legend to a line and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .appearance import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["direct_labels"]

_LINE_HEIGHT = 1.25  # of the size of the text
_POINTS = 72.0  # of an inch
_OFFSET, _REACH = 1.02, 0.05  # of names to the right of the axes, and of their pointers, in widths of the axes


def direct_labels(ax: Axes) -> None:
    """Write the label of each line to the right of the axes, in its colour, at the height of the line's last point.

    Names that would overlap are moved apart in the order of their lines, and a thin pointer leads to the line. Call it
    when the axes are drawn and have their limits. Lines without a label of their own have none here.

    Args:
        ax: the axes.
    """
    ax.get_xlim(), ax.get_ylim()  # settles limits that follow the data
    lines = [line for line in ax.lines if _is_named(line)]
    ends = [_end(ax, line) for line in lines]
    known = [(end, line) for end, line in zip(ends, lines, strict=True) if end is not None]
    if not known:
        return
    known.sort(key=lambda pair: pair[0][1])
    height = ax.get_window_extent().height / ax.figure.dpi * _POINTS
    places = spread(np.array([end[1] for end, _ in known]), _LINE_HEIGHT * SMALL / max(height, 1.0))
    for (end, line), place in zip(known, places, strict=True):
        moved = abs(place - end[1]) > 1e-6 or end[0] < 1 - 1e-2
        ax.annotate(
            str(line.get_label()),
            end,
            (_OFFSET + (_REACH if moved else 0.0), place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=line.get_color(),
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 2.0}
            if moved
            else None,
        )


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Places in rising order, moved apart to at least `gap`, each group around its mean but within the axes.

    >>> spread(np.array([0.0, 0.5, 0.52]), 0.1).round(2).tolist()
    [0.0, 0.46, 0.56]
    >>> spread(np.array([0.97, 0.98, 1.0]), 0.1).round(2).tolist()
    [0.75, 0.85, 0.95]
    """
    groups: list[list[float]] = []
    for place in places:
        groups.append([float(place)])
        while len(groups) > 1 and _first(groups[-1], gap) - _last(groups[-2], gap) < gap - 1e-9:
            last = groups.pop()
            groups[-1] += last
    return np.array([_first(group, gap) + gap * i for group in groups for i in range(len(group))])


def _first(group: list[float], gap: float) -> float:
    """The lowest place of a group, around its mean where that leaves room on both sides."""
    reach = gap * (len(group) - 1)
    return float(np.clip(sum(group) / len(group) - reach / 2, 0.0, max(0.0, 1.0 - reach - gap / 2)))


def _last(group: list[float], gap: float) -> float:
    return _first(group, gap) + gap * (len(group) - 1)


def _is_named(line: Line2D) -> bool:
    return not str(line.get_label()).startswith("_")


def _end(ax: Axes, line: Line2D) -> tuple[float, float] | None:
    """The last finite point of a line, as fractions of the axes; heights beyond the axes are at their edge."""
    points = np.asarray(line.get_xydata(), float)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    x, y = ax.transAxes.inverted().transform(ax.transData.transform(points[-1]))
    return float(x), float(np.clip(y, 0.0, 1.0))
