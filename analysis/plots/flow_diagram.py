"""Where probability goes in an update: ribbons from the groups of tokens that lose mass to those that gain it.

Two distributions say how much each group gained or lost, not whose mass went where. The ribbons are the least transport
that explains the change (no group gives and takes at once in one context), with every loser's mass shared among the
gainers in proportion to what they gained: with d the change of mass of each group in one context,

    ribbon(a → b) = max(−d_a, 0)·max(d_b, 0) / Σ max(d, 0),

averaged over contexts. Opposite ribbons cancel, ribbon(a → b) − ribbon(b → a) where that is positive, so that what is
drawn is net. Hence what leaves a minus what arrives there is minus the mean change of a, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import UsageError
from .appearance import BUCKET_COLORS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SAMPLED", "flow_diagram", "transfers"]

SAMPLED = "★ sampled"  # the group that holds y alone
_SAMPLED_COLOR = "#CC79A7"
_BAR, _BEND = 0.02, 0.5  # width of a group's bar, and where ribbons bend, as fractions of the width
_GAP = 0.06  # between groups, as a fraction of the height
_LEAST = 0.005  # of the whole; narrower ribbons are not drawn, their mass stays in the bars


def transfers(change: np.ndarray, groups: Sequence[str]) -> pd.DataFrame:
    """The least transport between groups that explains changes of mass, as the module says.

    Args:
        change: change of the mass of each group in each context (contexts, groups); each row sums to zero but for
            rounding.
        groups: names of the groups.

    Returns:
        One row a ribbon with columns `source`, `target` and `value`, the net mean over contexts, which is positive.

    Raises:
        UsageError: another shape, no context, numbers that are not finite, or rows that do not sum to zero.

    Example:
        >>> transfers(np.array([[-0.2, 0.15, 0.05]]), ["a", "b", "c"]).round(3).to_dict("records")
        [{'source': 'a', 'target': 'b', 'value': 0.15}, {'source': 'a', 'target': 'c', 'value': 0.05}]
    """
    change = np.asarray(change, float)
    if change.ndim != 2 or change.shape[1] != len(groups) or not len(change):
        raise UsageError(
            f"change: expected at least one context and {len(groups)} groups, got shape {change.shape}; give one row "
            "a context and one column a group"
        )
    if not np.isfinite(change).all():
        raise UsageError("change: expected finite numbers, got a NaN or an infinity; leave those contexts out")
    if np.abs(change.sum(1)).max() > 1e-4:  # stored masses are float32 sums of up to a whole vocabulary
        worst = int(np.abs(change.sum(1)).argmax())
        raise UsageError(
            f"change: expected rows that sum to 0, got {change[worst].sum():g} in context {worst}; "
            "the groups must hold every token once"
        )
    lost, gained = np.maximum(-change, 0), np.maximum(change, 0)
    whole = gained.sum(1)
    shares = np.divide(gained, whole[:, None], out=np.zeros_like(gained), where=whole[:, None] > 0)
    moved = lost.T @ shares / len(change)
    net = moved - moved.T
    rows = [(groups[i], groups[j], net[i, j]) for i, j in np.argwhere(net > 0)]
    return pd.DataFrame(rows, columns=["source", "target", "value"])


def flow_diagram(ax: Axes, data: pd.DataFrame, groups: Sequence[str]) -> None:
    """Draw ribbons from the groups that lose mass, on the left, to those that gain it, on the right.

    The height of a bar or a ribbon is probability mass; the number at a bar is the mass that leaves or arrives there,
    in per cent of all mass.

    Args:
        ax: axes to draw on; its frame is taken away.
        data: one row a ribbon with columns `source`, `target` and `value` (mass, not negative), as `transfers` gives
            it.
        groups: the groups from top to bottom; `SAMPLED` is the sampled token, and the others are rank buckets.

    Raises:
        UsageError: a group that is not named, or a value that is negative or not finite.
    """
    if unknown := sorted({*data["source"], *data["target"]} - set(groups)):
        raise UsageError(f"data: expected the groups {', '.join(groups)}, got {unknown[0]!r}; name it in groups")
    values = data["value"].to_numpy(float)
    if not np.isfinite(values).all() or (values < 0).any():
        raise UsageError(f"data: expected masses of at least 0, got {values[~(values >= 0)][0]:g}; see transfers")
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(1, 0)
    whole = float(values.sum())
    if whole == 0:
        ax.text(0.5, 0.5, "no mass moved", ha="center", va="center", fontsize=SMALL)
        return
    colors = _colors(groups)
    place = {group: i for i, group in enumerate(groups)}
    amounts = np.zeros((len(groups), len(groups)))
    for source, target, value in zip(data["source"], data["target"], values, strict=True):
        amounts[place[source], place[target]] += value
    scale = (1 - _GAP * (len(groups) - 1)) / whole
    starts, ends = (_tops(amounts.sum(axis=axis)) for axis in (1, 0))
    for side, tops, totals in (("left", starts, amounts.sum(axis=1)), ("right", ends, amounts.sum(axis=0))):
        for group, top, total in zip(groups, tops, totals, strict=True):
            if total > _LEAST * whole:
                _bar(ax, side, top, total * scale, colors[group], f"{group}  {_per_cent(total, side)}")
    from_top, to_top = dict(zip(groups, starts, strict=True)), dict(zip(groups, ends, strict=True))
    for source in groups:
        for target in groups:
            height = amounts[place[source], place[target]] * scale
            if height > _LEAST * whole * scale:
                _ribbon(ax, from_top[source], to_top[target], height, colors[source])
            from_top[source] += height
            to_top[target] += height


def _colors(groups: Sequence[str]) -> dict[str, str]:
    ranks = [group for group in groups if group != SAMPLED]
    return {SAMPLED: _SAMPLED_COLOR} | dict(zip(ranks, BUCKET_COLORS, strict=False))


def _tops(totals: np.ndarray) -> np.ndarray:
    """Upper ends of the bars of one side, one below the other with gaps, as fractions of the height."""
    heights = totals * (1 - _GAP * (len(totals) - 1)) / totals.sum()
    return np.concatenate([[0.0], np.cumsum(heights + _GAP * (heights > 0))[:-1]])


def _per_cent(mass: float, side: str) -> str:
    """Mass in per cent with its sign.

    >>> _per_cent(0.0312, "left"), _per_cent(0.0004, "right")
    ('−3.1%', '+0.04%')
    """
    return f"{'−' if side == 'left' else '+'}{100 * mass:.2g}%"


def _bar(ax: Axes, side: str, top: float, height: float, color: str, text: str) -> None:
    from matplotlib.patches import Rectangle

    left = 0.0 if side == "left" else 1 - _BAR
    ax.add_patch(Rectangle((left, top), _BAR, height, color=color, linewidth=0))
    ax.annotate(
        text,
        (_BAR if side == "left" else 1 - _BAR, top + height / 2),
        (4 if side == "left" else -4, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=SMALL,
    )


def _ribbon(ax: Axes, start: float, end: float, height: float, color: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    left, right = _BAR, 1 - _BAR
    vertices = [
        (left, start), (_BEND, start), (_BEND, end), (right, end),
        (right, end + height), (_BEND, end + height), (_BEND, start + height), (left, start + height), (left, start),
    ]  # fmt: skip
    curve, line = Path.CURVE4, Path.LINETO
    codes = [Path.MOVETO, curve, curve, curve, line, curve, curve, curve, Path.CLOSEPOLY]
    ax.add_patch(PathPatch(Path(vertices, codes), facecolor=color, alpha=0.45, linewidth=0))
