"""Runs beside each other over training: one panel for each quantity, one line for each method, intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .. import plots
from ..errors import UsageError
from ..evaluation import METRICS, get_metric
from ..evaluation.intervals import Method
from .bands import band
from .curves import evaluations
from .figure_titles import furthest_title
from .figures import NothingToDraw, uncertainty
from .sources import Source, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..records import Run

__all__ = ["compare_figure", "compared_curves"]

X = Literal["step", "update"]
_AXES: dict[str, str] = {"step": "step (rollout batch)", "update": "optimiser update"}
_NAMES = {"entropy_fixed": "entropy", "entropy_own": "entropy of own samples", "tail_mass": "mass beyond rank 16"}
_UNITS = {"entropy_fixed": "nats", "entropy_own": "nats", "log_effective_solutions": "nats"}
_PANEL_INCHES = 1.75

CAPTION = """Test prompts that every evaluation of every run has. """


def compared_curves(runs: Sequence[Run], metric: str, *, x: X = "step") -> pd.DataFrame:
    """A metric on the test prompts at each evaluation of each method.

    Args:
        runs: runs that were evaluated.
        metric: a name of `analysis.evaluation` that is a mean over prompts: pass@k for any k, entropy_fixed, ….
        x: "step" for rollout batches, "update" for optimiser updates. Seeds that had made different numbers of updates
            at the same step are at the mean of these.

    Returns:
        One row a point: label, `x`, value, low, high, kind and reason of the interval. Intervals are 95%: Student's
        over the seeds of a method that has several, else over prompts.

    Raises:
        UsageError: an unknown metric, one that is not a mean over prompts, or another `x`.
    """
    chosen = get_metric(metric)
    if chosen.combine != "mean":
        means = ", ".join(name for name, known in METRICS.items() if known.combine == "mean")
        raise UsageError(f"metric: expected a mean over prompts, got {metric}; choose one of {means}")
    if x not in _AXES:
        raise UsageError(f"x: expected {' or '.join(_AXES)}, got {x!r}; choose one of them")
    rows = evaluations(runs, "test")
    method: Method | None = "success" if chosen.success else None
    drawn = band(rows.assign(value=chosen.values(rows)), ["step"], method=method)
    if x == "update":
        made = rows.groupby(["label", "step"])["update"].mean().rename("update")
        drawn = drawn.join(made, on=["label", "step"]).drop(columns="step")
    return drawn


def compare_figure(
    source: Source, metrics: Sequence[str] = ("pass@1", "entropy_fixed", "pass@8"), *, x: X = "step"
) -> Figure:
    """Methods compared over training: one panel below the other for each metric, with intervals as bands.

    Args:
        source: an experiment, a run or runs; runs of one label and different seeds are one line.
        metrics: what is drawn, from top to bottom, as in `compared_curves`. Pass@k of more responses than were sampled
            is left out.
        x: "step" or "update".

    Raises:
        UsageError: as `compared_curves`, or no metric.
        NothingToDraw: no evaluation has any of these metrics.

    Example:
        >>> compare_figure(analysis.load_trace("runs/…"), x="update")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    if not metrics:
        raise UsageError(f"metrics: expected at least one metric, got none; choose among {', '.join(METRICS)}")
    runs = [run for run in runs_of(source) if run.rows("evals")]
    curves = {metric: compared_curves(runs, metric, x=x) for metric in metrics} if runs else {}
    curves = {metric: data for metric, data in curves.items() if np.isfinite(data["value"]).any()}
    if not curves:
        raise NothingToDraw(f"no evaluation recorded {', '.join(metrics)}")
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES, 0.6 + _PANEL_INCHES * len(curves)))
        axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
        for ax, (metric, data) in zip(axes, curves.items(), strict=True):
            name = _NAMES.get(metric, metric.replace("pass@", "Pass@").replace("_", " "))
            plots.curve(ax, data, x=x)
            ax.set_ylabel(f"{name} ({_UNITS[metric]})" if metric in _UNITS else name)
            plots.heading(ax, furthest_title(data, name, x=x))
            if data["label"].nunique() > 1:
                plots.direct_labels(ax)
        axes[-1].set_xlabel(_AXES[x])
        plots.caption(figure, CAPTION + uncertainty(runs, "prompts"))
        return figure
