"""The figure of gradient noise: policies of different accuracy, on one task or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .. import plots
from ..noise.crossings import Crossing, crossing_by_task
from .compose import NothingToDraw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["noise_figure"]

_SHOWN = ("PSR", "NSR", "GRPO")
_Z = 1.96

CAPTION = """Policies against their exact success probability p (mean over fixed prompts). Top: per-rollout variance of
NSR over that of PSR; both have the same expectation, the exact gradient ∇p. Dashed: where it passes 1, on straight
lines between points; grey: where its 95% band holds 1. Bottom: per-rollout variance over the squared signal, hence the
rollouts that make the signal as large as the noise. Bars: 95% intervals over replicates of the rollouts, prompts fixed;
how policies of equal p differ is not in them."""


def noise_figure(frame: pd.DataFrame) -> Figure:
    """Variance ratio and noise-to-signal against p, one column a task; `frame` as `python -m analysis.noise` writes it.

    Raises NothingToDraw where no measurement has a variance ratio.
    """
    from matplotlib.figure import Figure

    drawn = frame[frame["noise_ratio"] > 0]
    tasks = list(dict.fromkeys(drawn.loc[drawn["estimator"] == "NSR", "task"]))
    if not tasks:
        raise NothingToDraw("no measurement has both PSR and NSR rollouts and a signal")
    crossed = crossing_by_task(drawn)
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES if len(tasks) == 1 else plots.PAGE_INCHES, 4.4))
        axes = figure.subplots(2, len(tasks), squeeze=False, sharex="col", sharey="row")
        for task, (ratio, noise) in zip(tasks, axes.T, strict=True):
            rows = drawn[drawn["task"] == task]
            plots.noise_curve(ratio, _points(rows[rows["estimator"] == "NSR"], "noise_ratio"))
            plots.crossing_mark(ratio, **vars(crossed.get(task, Crossing(None, None, None))))
            plots.noise_curve(noise, _points(rows[rows["estimator"].isin(_SHOWN)], "noise_to_signal"))
            plots.heading(ratio, str(task))
            noise.set_xlabel("exact success probability p")
        axes[0, 0].set_ylabel("variance, NSR / PSR")
        axes[1, 0].set_ylabel("noise / signal (rollouts)")
        plots.legend(figure, [axes[1, 0]])
        plots.caption(figure, CAPTION)
        return figure


def _points(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Points with 95% intervals on the logarithm, which keeps them positive."""
    from numpy import exp

    value = rows[quantity]
    factor = exp(_Z * (rows[f"{quantity}_se"] / value))
    return pd.DataFrame({"label": rows["estimator"], "p": rows["p"], "value": value, "low": value / factor,
                         "high": value * factor}).dropna()  # fmt: skip
