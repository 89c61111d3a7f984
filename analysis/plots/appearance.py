"""The one style of all figures: seaborn's ticks at the width of a journal column, and a fixed look per method.

Sizes are in inches at which the figure is read: one column 3.35, a page 6.9; no text is smaller than 7 pt. Colours are
those of Okabe and Ito (2008, "Color Universal Design"), which stay apart for colour-blind readers; marker and line
style differ too, so that figures survive printing in grey.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BASE",
    "BUCKET_COLORS",
    "COLUMN_INCHES",
    "PAGE_INCHES",
    "Look",
    "caption",
    "heading",
    "legend",
    "look",
    "reference_line",
    "style",
]

COLUMN_INCHES = 3.35  # width of a figure in one column
PAGE_INCHES = 6.9  # width of a figure across the page
SMALL, NORMAL = 7.0, 7.5  # pt
MOST_COLUMNS = 6  # of a legend

BASE = "base"  # label of the untrained policy
# cividis, which orders by lightness whatever the colour vision; dark is the head of the distribution
BUCKET_COLORS: tuple[str, ...] = ("#00204d", "#575d6d", "#a59c74", "#d9b44a", "#f0d84c", "#ffef9f")


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one method in every figure."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]]

    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.linestyle}


_LOOKS: dict[str, Look] = {
    BASE: Look("#777777", "", (0, (4.0, 1.5))),
    "PSR": Look("#0072B2", "o", "-"),
    "NSR": Look("#D55E00", "s", "-"),
    "W-REINFORCE": Look("#009E73", "^", (0, (5.0, 1.2))),
    "GRPO": Look("#CC79A7", "D", (0, (3.0, 1.0, 1.0, 1.0))),
    "REINFORCE": Look("#E69F00", "v", (0, (2.0, 1.0))),
    "PPO": Look("#56B4E9", "P", (0, (6.0, 1.0, 1.0, 1.0))),
    # tokens by the reward of their response; a sign's colour is that of the method that learns from it alone
    "rewarded": Look("#0072B2", "^", "-"),
    "unrewarded": Look("#D55E00", "v", "-"),
    "all": Look("#333333", "o", "-"),
}
_OTHERS: tuple[Look, ...] = (
    Look("#8C564B", "p", (0, (6.0, 1.0, 1.0, 1.0))),
    Look("#000000", "X", "-"),
    Look("#B8A800", "<", (0, (1.0, 1.0))),
    Look("#8C564B", ">", "-"),
    Look("#000000", "h", (0, (4.0, 2.0))),
    Look("#B8A800", "*", "-"),
)


def look(label: str) -> Look:
    """The look of a method, the same in every figure; an unknown label gets one by a hash of its name.

    Args:
        label: name of the method.

    Returns:
        Colour, marker and line style.

    >>> look("PSR").color, look("my method") == look("my method")
    ('#0072B2', True)
    """
    return _LOOKS.get(label) or _OTHERS[zlib.crc32(label.encode()) % len(_OTHERS)]


@contextmanager
def style() -> Iterator[None]:
    """A context with the style of all figures; it restores matplotlib's settings at its end."""
    import matplotlib
    import seaborn

    settings = (
        seaborn.axes_style("ticks")
        | seaborn.plotting_context("paper")
        | {
            "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
            "mathtext.fontset": "dejavusans",
            "font.size": NORMAL,
            "axes.labelsize": NORMAL,
            "axes.titlesize": NORMAL,
            "axes.titleweight": "normal",
            "axes.titlepad": 4.0,
            "axes.labelpad": 2.5,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "legend.fontsize": SMALL,
            "legend.title_fontsize": SMALL,
            "legend.frameon": False,
            "legend.handlelength": 2.4,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.minor.size": 1.5,
            "ytick.minor.size": 1.5,
            "xtick.major.pad": 2.0,
            "ytick.major.pad": 2.0,
            "lines.linewidth": 1.2,
            "lines.markersize": 3.2,
            "lines.markeredgewidth": 0.0,
            "figure.dpi": 150,
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
        }
    )
    with matplotlib.rc_context(settings):
        yield


def heading(ax: Axes, text: str) -> None:
    """Put a title over the axes, from their left edge.

    Args:
        ax: axes of the title.
        text: the title.
    """
    ax.set_title(text, loc="left")


def reference_line(ax: Axes, value: float = 0.0, *, axis: str = "y") -> None:
    """Draw a thin grey line.

    Args:
        ax: axes to draw on.
        value: where it crosses the axis.
        axis: "y" for a horizontal line, "x" for a vertical one.
    """
    draw = ax.axhline if axis == "y" else ax.axvline
    draw(value, color="#999999", linewidth=0.6, zorder=0)


def legend(figure: Figure, axes: Sequence[Axes], *, title: str | None = None, columns: int = MOST_COLUMNS) -> None:
    """Put one legend above the figure, with every label once in order of first appearance.

    Args:
        figure: the figure.
        axes: axes whose labels it holds.
        title: its title.
        columns: the greatest number of columns.
    """
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        title=title,
        ncols=min(len(handles), columns),
        columnspacing=1.2,
    )


def caption(figure: Figure, text: str) -> None:
    """Put a caption under the figure, wrapped to its width.

    Args:
        figure: the figure.
        text: the caption.
    """
    per_line = int(figure.get_figwidth() / (0.0074 * SMALL))
    figure.supxlabel(fill(" ".join(text.split()), per_line), fontsize=SMALL, x=0.01, ha="left", color="#444444")
