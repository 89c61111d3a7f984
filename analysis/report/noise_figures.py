"""Figures of gradient noise: policies of different accuracy, on one task or several, and runs over their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import plots
from ..evaluation import Interval, interval
from ..evaluation.crossings import Crossing, crossing_by_task
from ..evaluation.intervals import over_replicates
from .figures import NothingToDraw
from .sources import Source, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["noise_dynamics_figure", "noise_figure"]

_SHOWN = ("PSR", "NSR", "GRPO")

CAPTION = """Policies against their exact success probability p (mean over fixed prompts). Top: per-rollout variance of
NSR over that of PSR; both have the same expectation, the exact gradient ∇p. Dashed: where it passes 1, on a curve
through points that scatter; grey: its 95% interval over policies. Bottom: per-rollout variance over the squared signal,
hence the rollouts that make the signal as large as the noise. Bars: 95% intervals over replicates of the rollouts,
prompts fixed."""

OVER_STEPS_CAPTION = """Noise of the estimators PSR and NSR of the policy that each method has trained so far, on fixed
validation prompts: per-rollout variance of NSR over that of PSR, and of each over the squared signal, hence the
rollouts that make the signal as large as the noise. Bands: 95% intervals, """

_PANELS = (
    ("NSR", "noise_ratio", "variance, NSR / PSR"),
    ("PSR", "noise_to_signal", "noise / signal, PSR"),
    ("NSR", "noise_to_signal", "noise / signal, NSR"),
)


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
            place = crossed.get(task, Crossing(None, None, None))
            ends = (place.at, place.at) if place.reason else (place.low, place.high)
            plots.crossing_mark(ratio, at=place.at, low=ends[0], high=ends[1])
            plots.noise_curve(noise, _points(rows[rows["estimator"].isin(_SHOWN)], "noise_to_signal"))
            noisier = "" if place.at is None else f": NSR is the noisier one up to p = {place.at:.2f}"
            plots.heading(ratio, f"{task}{noisier}")
            noise.set_xlabel("exact success probability p")
        axes[0, 0].set_ylabel("variance, NSR / PSR")
        axes[1, 0].set_ylabel("noise / signal (rollouts)")
        plots.legend(figure, [axes[1, 0]])
        plots.caption(figure, CAPTION)
        return figure


def noise_dynamics_figure(source: Source) -> Figure:
    """Variance ratio and noise-to-signal of both signs over steps, one line a method.

    Raises NothingToDraw where no run recorded gradient noise.
    """
    from matplotlib.figure import Figure

    tables = [run.table("noise").assign(label=run.label, seed=run.seed) for run in runs_of(source) if run.rows("noise")]
    if not tables:
        raise NothingToDraw("no run measured gradient noise (record.noise_every)")
    rows = pd.concat(tables, ignore_index=True)
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 2.5))
        for ax, (estimator, quantity, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            plots.curve(ax, _over_steps(rows[rows["estimator"] == estimator], quantity), x="step")
            ax.set_yscale("log")
            ax.set_xlabel("step")
            plots.heading(ax, title)
        plots.legend(figure, figure.axes[:1])
        seeds = rows.groupby("label")["seed"].nunique().max()
        plots.caption(
            figure,
            OVER_STEPS_CAPTION
            + (f"over {seeds} seeds." if seeds > 1 else "one seed, over replicates of the rollouts."),
        )
        return figure


def _over_steps(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Mean of the logarithm at each step of a method: over seeds, or over replicates for one seed."""
    out = []
    for (label, step), part in rows[rows[quantity] > 0].groupby(["label", "step"], sort=False):
        if len(part) > 1:
            logs = interval(np.log(part[quantity]), over="seeds")
            ends = [float(np.exp(end)) for end in (logs.estimate, logs.low, logs.high)]
        else:
            alone = _over_replicates(part.iloc[0], quantity)
            ends = [alone.estimate, alone.low, alone.high]
        out.append({"label": label, "step": step} | dict(zip(("value", "low", "high"), ends, strict=True)))
    return pd.DataFrame(out, columns=["label", "step", "value", "low", "high"])


def _points(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Points with 95% intervals on the logarithm, which keeps them positive."""
    found = [_over_replicates(row, quantity) for _, row in rows[rows[quantity].notna()].iterrows()]
    ends = {"value": "estimate", "low": "low", "high": "high"}
    known = rows[rows[quantity].notna()]
    return pd.DataFrame(
        {"label": known["estimator"].tolist(), "p": known["p"].tolist()}
        | {column: [getattr(mean, name) for mean in found] for column, name in ends.items()}
    )


def _over_replicates(row: pd.Series, quantity: str) -> Interval:
    return over_replicates(float(row[quantity]), float(row[f"{quantity}_se"]), int(row["replicates"]))
