"""The figure of a training experiment with two seeds: every run as a line of its own, since two seeds have no useful
interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import plots

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.records import Run

__all__ = ["curves", "runs_figure"]

_CAPTION = (
    "Each line is one run; two seeds of each method. Means over the {prompts} held-out prompts that every evaluation "
    "has, validation and test; Pass@1 is exact, at temperature 1. Entropy: mean over fixed prefixes of the base's own "
    "responses, which each seed draws anew. Right: the same points, arrows in the direction of time."
)


def curves(run: Run) -> pd.DataFrame:
    """Pass@1 and entropy of one run at each evaluation, on the prompts that every evaluation has.

    Columns: label, step, pass_at_1, entropy, prompts.
    """
    table = run.table("evals")
    table = table[table["temperature"] == 1.0]
    counts = table.groupby("prompt_id")["step"].nunique()
    everywhere = counts.index[counts == table["step"].nunique()]
    rows = table[table["prompt_id"].isin(everywhere)]
    means = rows.groupby("step", as_index=False).agg(pass_at_1=("p", "mean"), entropy=("entropy_fixed", "mean"))
    return means.assign(label=run.label, prompts=len(everywhere))


def runs_figure(runs: Sequence[Run]) -> Figure:
    """Pass@1 and entropy against steps, and entropy against Pass@1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = (
        ("step", "pass_at_1", "Pass@1", "step", "Pass@1"),
        ("step", "entropy", "Entropy", "step", "entropy (nats)"),
        ("pass_at_1", "entropy", "Entropy as Pass@1 moves", "Pass@1", "entropy (nats)"),
    )
    found = [curves(run) for run in runs]
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 2.5))
        axes = figure.subplots(1, 3)
        for ax, (x, y, title, x_name, y_name) in zip(axes, panels, strict=True):
            for data in found:
                drawn = data.assign(value=data[y], low=np.nan, high=np.nan)
                if x == "step":
                    plots.curve(ax, drawn, x=x)
                    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
                else:
                    plots.path(ax, drawn, x=x)
            plots.heading(ax, title)
            ax.set_xlabel(x_name)
            ax.set_ylabel(y_name)
        plots.legend(figure, [axes[0]])
        plots.caption(figure, _CAPTION.format(prompts=int(found[0]["prompts"].iloc[0])))
        return figure


def write(folder: Path, path: Path) -> None:
    """Draw the experiment in `folder` into a PNG."""
    from analysis.records import Experiment
    from analysis.report.png import save_figure

    save_figure(runs_figure(list(Experiment(folder).runs.values())), path)
