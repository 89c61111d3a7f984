"""The figures of an experiment, put together from the plots: each takes runs and returns a `matplotlib` Figure.

A figure that its runs hold no records for raises `NothingToDraw` with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import plots
from .curves import DYNAMICS, dynamics, pass_at_k_curves, samples_per_prompt, validation_pass_at_1
from .prediction_curves import explained, shares_over_time
from .token_pictures import FlowData, TokenPicture, token_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..records import Run

__all__ = [
    "NothingToDraw",
    "dynamics_figure",
    "mass_flow_figure",
    "pass_at_k_figure",
    "prediction_figure",
    "token_figure",
]


LONGEST_PREFIX = 34  # characters

DYNAMICS_CAPTION = """Top: against steps (rollout batches). Bottom: the same against Pass@1 on the validation prompts,
interpolated between evaluations; arrows in the direction of time. Greedy accuracy and entropy H, on
fixed prefixes and on own rollouts: test prompts; ratios: training rollouts, some steps together."""

PASS_AT_K_CAPTION = """{} of the base and of the last policies on test prompts; the upper axis is spaced by
failures, −log(1 − Pass@k). Below: difference to the base."""

TOKEN_CAPTION = """★ the sampled token y and its weight w = −∂L/∂log π(y). Arrows, each on its own scale: the descent
direction of the loss in the logits of this one token, and the change of these logits that the whole update made (mean
under π set to 0). Context: of the first recorded update, the one with a weight of that sign whose entropy is nearest
to 1 nat. One seed, one context each: no interval."""

FLOW_CAPTION = """Top: change of mass by rank (before each update), summed over the updates so far; mean over held-out
panel contexts. Middle: each change of one update against its first-order prediction, the JVP of the actual parameter
step (colour: rank). Bottom: the law, a token's own direction w(e_y − π), against the realised change at its context,
for log π(y), entropy H and the mass of each rank: share of contexts that moved its way minus share that did not, and
Spearman's ρ; ▲ contexts of rewarded, ▼ of unrewarded responses."""

PREDICTION_CAPTION = """The prediction is the JVP: first order in the actual parameter step. Top: the part of the
variance of the realised changes of one update that it leaves unexplained (0.01 is R² = 0.99), all contexts. Below:
whose gradients the predicted Δ log π(y) came from, at contexts of rewarded responses, of unrewarded ones and of the
held-out panel: share Σ x·j / Σ j² of the whole change j for a part x of the step. A source has the whole impulse of
its gradients, momentum included, with Adam's v̂ as it was; the sources add to one. History: all that came from earlier
updates' gradients."""


class NothingToDraw(Exception):
    """The records that a figure needs are not there; the message says which."""


def dynamics_figure(runs: Sequence[Run]) -> Figure:
    """Greedy accuracy, both entropies, correct and fully solved ratio: against steps, and against Pass@1."""
    from matplotlib.figure import Figure

    quantities, reached = dynamics(runs), validation_pass_at_1(runs)
    samples = samples_per_prompt(run.table("evals") for run in runs)
    if reached.empty:
        raise NothingToDraw("no evaluation with Pass@1 was recorded")
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 3.5))
        axes = figure.subplots(2, len(DYNAMICS), sharey="col")
        for (name, title), (over_time, over_reached) in zip(DYNAMICS.items(), axes.T, strict=True):
            data = quantities[name]
            plots.curve(over_time, data, x="step")
            plots.path(over_reached, data.assign(reached=_interpolated(data, reached)), x="reached")
            plots.heading(over_time, title)
            over_time.set_xlabel("step")
            over_reached.set_xlabel("Pass@1" if samples is None else "Pass@1, estimated")
        plots.legend(figure, [axes[0, 0]])
        estimate = "" if samples is None else f" Pass@1 is estimated, from {samples} samples a prompt."
        plots.caption(figure, DYNAMICS_CAPTION + estimate + uncertainty(runs, "prompts"))
        return figure


def _interpolated(data: pd.DataFrame, reached: pd.DataFrame) -> np.ndarray:
    """`value` of `reached` at the steps of `data`, method by method; NaN beyond the evaluations."""
    out = np.full(len(data), np.nan)
    for label, known in reached.groupby("label"):
        of = (data["label"] == label).to_numpy()
        out[of] = np.interp(data.loc[of, "step"], known["step"], known["value"], left=np.nan, right=np.nan)
    return out


def pass_at_k_figure(runs: Sequence[Run]) -> Figure:
    """Pass@k of the base and of the last policies, and its difference to the base, one column a law."""
    from matplotlib.figure import Figure

    data = pass_at_k_curves(runs)
    if data["k"].nunique() < 2:
        raise NothingToDraw("no evaluation with success probabilities, or with several samples a prompt, was recorded")
    samples = samples_per_prompt(run.table("evals") for run in runs)
    laws = list(dict.fromkeys(data["law"]))
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES if len(laws) == 1 else plots.PAGE_INCHES, 4.2))
        axes = figure.subplots(2, len(laws), squeeze=False, sharex=True, sharey="row")
        every = data[data["quantity"] == "value"]
        for law, (values, differences) in zip(laws, axes.T, strict=True):
            rows = data[data["law"] == law]
            plots.pass_at_k(values, every[every["law"] == law], among=every)
            plots.pass_at_k_difference(differences, rows[rows["quantity"] == "difference"])
            plots.heading(values, law)
            differences.set_xlabel("k (responses per prompt)")
        axes[0, 0].set_ylabel("Pass@k")
        axes[1, 0].set_ylabel("Pass@k − base")
        plots.legend(figure, [axes[0, 0]])
        what = "Exact Pass@k" if samples is None else f"Pass@k, estimated from {samples} samples a prompt,"
        caption = PASS_AT_K_CAPTION.format(what)
        plots.caption(figure, caption + uncertainty(runs, "prompts (bootstrap; paired below)"))
        return figure


def uncertainty(runs: Sequence[Run], over: str) -> str:
    """What the bands of a figure are, as a sentence for its caption."""
    seeds = max(len({run.seed for run in runs if run.label == label}) for label in {run.label for run in runs})
    if seeds > 1:
        return f" Bands: 95% t intervals over {seeds} seeds."
    return f" One seed; bands: 95% intervals over {over}."


def token_figure(runs: Sequence[Run]) -> Figure:
    """A positively weighted token of the first run that has one, beside a negatively weighted one of another run
    where there is one (the rule for which token: `contexts.token_picture`)."""
    from matplotlib.figure import Figure

    pictures = _pictures(runs)
    if not pictures:
        raise NothingToDraw("no update recorded a context whose token had a weight (record.contexts)")
    with plots.style():
        alone = len(pictures) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES, 2.7) if alone else (plots.PAGE_INCHES, 2.3))
        grid = figure.add_gridspec(1, 3 * len(pictures), width_ratios=[1.3, 0.8, 0.8] * len(pictures))
        for i, picture in enumerate(pictures):
            axes = [figure.add_subplot(grid[0, 3 * i + j]) for j in range(3)]
            _token_axes(axes, picture)
        plots.caption(figure, TOKEN_CAPTION)
        return figure


def _pictures(runs: Sequence[Run]) -> list[TokenPicture]:
    up = next((found for run in runs if (found := token_picture(run, 1))), None)
    others = [run for run in runs if up is None or run.label != up.label]
    down = next((found for run in [*others, *runs] if (found := token_picture(run, -1))), None)
    return [picture for picture in (up, down) if picture]


def _token_axes(axes: Sequence[Axes], picture: TokenPicture) -> None:
    plots.token_bars(axes[0], picture.tokens)
    plots.logit_arrows(axes[1], picture.tokens, column="gradient")
    plots.logit_arrows(axes[2], picture.tokens, column="dlogit")
    weight = f"{picture.weight:+.2g}".replace("-", "−")
    prefix = picture.prefix if len(picture.prefix) <= LONGEST_PREFIX else "… " + picture.prefix[-LONGEST_PREFIX:]
    axes[0].set_title(f"{picture.label}: w = {weight}, H = {picture.entropy_nats:.2f} nats\n{prefix} ▁", loc="left")
    axes[0].set_xlabel("probability")
    axes[0].legend(loc="lower right")
    axes[1].set_xlabel(r"$w(e_y-\pi)\,/\,|w|$")
    axes[2].set_xlabel("Δ logit (nats)")


def mass_flow_figure(runs: Sequence[Run], data: FlowData | None = None) -> Figure:
    """Mass by rank bucket over training, the JVP of the actual steps beside what happened, and how the law agreed.

    `data`, where it was read already, may hold more runs than are drawn.
    """
    from matplotlib.figure import Figure

    runs = [run for run in runs if run.rows("flows")]
    if not runs:
        raise NothingToDraw("no contexts were followed through updates (record.contexts)")
    data = FlowData.of(runs) if data is None else data.only(run.run_id for run in runs)
    labels = list(dict.fromkeys(run.label for run in runs))
    flows, beside, law = data.bucket_flows(), data.jvp_beside_realised(), data.agreement()
    with plots.style():
        alone = len(labels) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES, 5.7) if alone else (plots.PAGE_INCHES, 4.9))
        axes = figure.subplots(3, len(labels), squeeze=False, sharey="row", height_ratios=[1.0, 1.0, 0.75])
        limit = float(beside[["realised", "jvp"]].abs().to_numpy().max(initial=0.0))
        for label, (over_time, first_order, agreeing) in zip(labels, axes.T, strict=True):
            plots.bucket_flow(over_time, flows[flows["label"] == label])
            plots.realised_and_jvp(first_order, beside[beside["label"] == label], limit=limit)
            plots.law_agreement(agreeing, law[law["label"] == label])
            plots.heading(over_time, label)
            over_time.set_xlabel("optimiser update")
            first_order.set_xlabel("Δ mass, JVP")
        axes[0, 0].set_ylabel("Δ mass, summed")
        axes[1, 0].set_ylabel("Δ mass, realised")
        axes[2, 0].set_ylabel("agreement")
        axes[2, 0].legend(loc="lower left", borderaxespad=0.0)
        plots.legend(figure, [axes[0, 0]], title="rank before the update")
        plots.caption(figure, FLOW_CAPTION + uncertainty(runs, "prompts of the panel"))
        return figure


def prediction_figure(runs: Sequence[Run], data: FlowData | None = None) -> Figure:
    """What the first order left unexplained over training, and whose gradients its predictions came from.

    `data`, where it was read already, may hold more runs than are drawn.
    """
    from matplotlib.figure import Figure

    runs = [run for run in runs if run.rows("flows")]
    if not runs:
        raise NothingToDraw("no contexts were followed through updates (record.contexts)")
    data = FlowData.of(runs) if data is None else data.only(run.run_id for run in runs)
    left, parts = explained(data.flows), shares_over_time(data.flows)
    if parts.empty:
        raise NothingToDraw("no update recorded its JVP by source (record.jvp_every, record.shares_every)")
    labels = list(dict.fromkeys(run.label for run in runs))
    with plots.style():
        alone = len(labels) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES, 6.4) if alone else (plots.PAGE_INCHES, 5.9))
        axes = figure.subplots(4, len(labels), squeeze=False, sharey="row", sharex="col")
        for label, (first, *below) in zip(labels, axes.T, strict=True):
            plots.heading(first, label)
            plots.unexplained(first, left[left["label"] == label], among=left)
            for ax, contexts in zip(below, ("rewarded", "unrewarded", "panel"), strict=True):
                at = parts[parts["contexts"] == contexts]
                plots.part_lines(ax, at[at["label"] == label], among=at)
            below[-1].set_xlabel("optimiser update")
        for ax, name in zip(axes[:, 0], ("", "rewarded", "unrewarded", "panel"), strict=True):
            ax.set_ylabel(f"share,\n{name}" if name else "1 − R²")
        axes[0, 0].legend(loc="upper right", borderaxespad=0.0)
        plots.legend(figure, list(axes[1:].flat), title="gradients of", columns=3 if alone else 5)
        plots.caption(figure, PREDICTION_CAPTION + uncertainty(runs, "prompts (jackknife)"))
        return figure
