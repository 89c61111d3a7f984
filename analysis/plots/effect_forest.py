"""Effects with their intervals as dots and bars, one below the other, and the verdicts that follow from them.

Data of `effect_forest` are rows with columns label, value, low, high, null and margin (NaN where there is none); those
of `verdict_forest` have claim and verdict as well, one row a claim, and a row without a value is not yet decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .appearance import PAGE_INCHES, SMALL, caption, heading, reference_line, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["VERDICT_LOOKS", "effect_forest", "effects_figure", "verdict_forest", "verdicts_figure"]

# Colour and marker of each verdict: colours of Okabe and Ito, and shapes that tell them apart in grey.
VERDICT_LOOKS: dict[str, tuple[str, str]] = {
    "holds": ("#009E73", "o"),
    "fails": ("#D55E00", "X"),
    "depends": ("#0072B2", "D"),
    "undecided": ("#777777", "s"),
    "not yet": ("#777777", ""),
}
_STRIPE, _MARGIN = "#f3f3f3", "#dddddd"
_LABEL_CHARACTERS, _HEADING_CHARACTERS = 58, 58
_ROW_INCHES = 0.17


def effect_forest(ax: Axes, effects: pd.DataFrame, *, verdict: str = "undecided") -> None:
    """Draw each effect as a dot with its interval, from top to bottom, in its own unit.

    Args:
        ax: Axes to draw on.
        effects: One row an effect. The value without an effect is a line, the margin around it a grey band on its row;
            a dot without an interval is hollow.
        verdict: Of the claim; it chooses colour and marker.
    """
    color, marker = VERDICT_LOOKS[verdict]
    rows = effects.reset_index(drop=True)
    for i, row in rows.iterrows():
        height = len(rows) - 1 - int(str(i))
        value, low, high, null, margin = (float(row[name]) for name in ("value", "low", "high", "null", "margin"))
        if np.isfinite(margin) and np.isfinite(null):
            ax.barh(height, 2 * margin, left=null - margin, height=0.8, color=_MARGIN, linewidth=0, zorder=0)
        if np.isfinite(low) and np.isfinite(high):
            ax.plot([low, high], [height, height], color=color, linewidth=0.9)
        sure = np.isfinite(low) and np.isfinite(high)
        ax.plot(
            [value],
            [height],
            marker=marker or "o",
            color=color,
            markerfacecolor=color if sure else "white",
            markeredgewidth=0.8,
            markersize=4.0,
            linestyle="none",
        )
    for null in sorted({float(null) for null in rows["null"] if np.isfinite(null)}):
        reference_line(ax, null, axis="x")
    ax.set_yticks(range(len(rows)), [fill(str(label), _LABEL_CHARACTERS) for label in reversed(list(rows["label"]))])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis="y", length=0)


def effects_figure(panels: Sequence[tuple[str, str, str, pd.DataFrame]], *, note: str) -> Figure:
    """One panel a claim, below each other, at the width of a page.

    Args:
        panels: Of each claim its heading, its verdict, the label of its axis and the rows of `effect_forest`.
        note: The caption.
    """
    from matplotlib.figure import Figure

    with style():
        labels = [[fill(str(label), _LABEL_CHARACTERS) for label in rows["label"]] for *_, rows in panels]
        longest = [max(label.count("\n") + 1 for label in of_panel) for of_panel in labels]
        heights = [0.62 + _ROW_INCHES * lines * len(rows) for lines, (*_, rows) in zip(longest, panels, strict=True)]
        figure = Figure(figsize=(PAGE_INCHES, 0.45 + sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, verdict, unit, rows) in zip(axes, panels, strict=True):
            effect_forest(ax, rows, verdict=verdict)
            heading(ax, fill(f"{title}: {verdict}", _HEADING_CHARACTERS))
            ax.set_xlabel(unit)
        caption(figure, note)
    return figure


def verdict_forest(ax: Axes, rows: pd.DataFrame, groups: Mapping[str, str]) -> None:
    """Draw one row a claim: its verdict as a word and a shape, and its effect on a scale of its own.

    An effect is drawn as (value − null) divided by the farthest that it, its interval or its margin lies from null, so
    that 0 means "no effect" on each row and rows are not compared in size. The margin is a grey band.

    Args:
        ax: Axes to draw on.
        rows: One row a claim; claims of a group stand together.
        groups: group -> its heading; rows have a column `group`.
    """
    heights: list[tuple[float, str, bool]] = []
    height = 0.0
    for group, title in groups.items():
        found = rows[rows["group"] == group]
        if not len(found):
            continue
        height -= 1.4 if heights else 0.0
        heights.append((height, title, True))
        for _, row in found.iterrows():
            height -= 1.0
            heights.append((height, str(row["claim"]), False))
            _verdict_row(ax, row, height)
    reference_line(ax, axis="x")
    ax.set_xlim(-1.08, 1.08)
    ax.set_xticks([-1, 0, 1], ["−", "no effect", "+"])
    ax.set_ylim(height - 0.7, 0.7)
    ax.set_yticks([place for place, _, _ in heights], [text for _, text, _ in heights])
    for tick, (_, _, is_title) in zip(ax.get_yticklabels(), heights, strict=True):
        tick.set_fontweight("bold" if is_title else "normal")
    ax.tick_params(axis="y", length=0)


def _verdict_row(ax: Axes, row: pd.Series, height: float) -> None:
    verdict = str(row["verdict"])
    color, marker = VERDICT_LOOKS[verdict]
    beside = ax.get_yaxis_transform()  # x in widths of the axes, y in rows
    if marker:
        ax.plot([1.05], [height], marker, color=color, markersize=5, transform=beside, clip_on=False)
    ax.text(1.08, height, verdict, color=color, va="center", fontsize=SMALL, transform=beside)
    value, low, high, null, margin = (float(row[name]) for name in ("value", "low", "high", "null", "margin"))
    if not np.isfinite(value):
        return
    null = null if np.isfinite(null) else 0.0
    margin = margin if np.isfinite(margin) else 0.0
    ends = [abs(end - null) for end in (value, low, high) if np.isfinite(end)]
    scale = max([*ends, margin]) or 1.0
    ax.barh(height, 2 * margin / scale, left=-margin / scale, height=0.7, color=_MARGIN, linewidth=0, zorder=0)
    if np.isfinite(low) and np.isfinite(high):
        ax.plot([(low - null) / scale, (high - null) / scale], [height, height], color=color, linewidth=1.0)
    ax.plot([(value - null) / scale], [height], marker or "o", color=color, markersize=4)
    ax.text(1.32, height, str(row["text"]), color="#444444", va="center", fontsize=SMALL, transform=beside)


def verdicts_figure(rows: pd.DataFrame, groups: Mapping[str, str], *, note: str) -> Figure:
    """The page of all claims, at twice the width of a page, since it is read on a screen.

    Args:
        rows: Rows of `verdict_forest`, with a column `text` that says the effect in words and numbers.
        groups: group -> its heading.
        note: The caption.
    """
    from matplotlib.figure import Figure

    present = [group for group in groups if (rows["group"] == group).any()]
    with style():
        size = (1.65 * PAGE_INCHES, 0.9 + _ROW_INCHES * 1.15 * (len(rows) + 2.4 * len(present)))
        figure = Figure(figsize=size, layout=None)
        figure.set_layout_engine("none")
        ax = figure.subplots()
        bottom = 0.75 / size[1]
        ax.set_position((0.30, bottom, 0.27, 1 - bottom - 0.12 / size[1]))
        verdict_forest(ax, rows, groups)
        figure.text(0.01, 0.12 / size[1], fill(" ".join(note.split()), 200), fontsize=SMALL, color="#444444")
    return figure
