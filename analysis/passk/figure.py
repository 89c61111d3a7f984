"""The figure of Pass@k curves: the curves with their bands, and below their paired difference with the crossing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import plots
from .curves import PassCurves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["pass_curves_figure"]

DIFFERENCE = "#444444"
CAPTION = """Mean over {} prompts; bands: 95% intervals over prompts. """
PAIRED = """Below: difference on the same prompts. """


def pass_curves_figure(curves: PassCurves) -> Figure:
    """Pass@k against k with intervals, and the difference of two checkpoints.

    Args:
        curves: of `pass_curves`.

    Returns:
        A figure of one column, with a title that says where the curves cross.
    """
    from matplotlib.figure import Figure

    paired = len(curves.names) > 1
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES, 4.2 if paired else 2.6))
        axes = figure.subplots(2 if paired else 1, 1, squeeze=False, sharex=True)[:, 0]
        plots.pass_bands(axes[0], curves.table)
        plots.heading(axes[0], _title(curves))
        axes[0].set_ylabel("Pass@k")
        if paired:
            plots.reference_line(axes[1])
            plots.pass_bands(axes[1], curves.difference, colors=(DIFFERENCE,))
            for crossing in curves.crossings:
                plots.pass_crossing(axes[1], crossing.at, low=crossing.low, high=crossing.high)
            axes[1].set_ylabel("difference")
            plots.heading(axes[1], str(curves.difference["label"].iloc[0]))
        axes[-1].set_xlabel("k (responses per prompt)")
        plots.caption(figure, CAPTION.format(curves.prompts) + (PAIRED if paired else ""))
        return figure


def _title(curves: PassCurves) -> str:
    if len(curves.names) == 1:
        last = curves.table.iloc[-1]
        return f"Pass@{last['k']} = {last['value']:.3f}"
    if curves.crossings:
        return f"The curves cross at k = {curves.crossings[0].at:.3g}"
    signs = np.sign(curves.difference["value"])
    return "The curves do not cross" if signs.any() else "The curves are the same"
