"""The figures of an experiment, composed from the plots: each takes an experiment, a run or runs and returns a Figure.

Titles are sentences computed from the data that is drawn. A figure whose records are missing raises `NothingToDraw`
with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import plots
from ..evaluation import EmptyRangeError
from ..evaluation.interval_kinds import LEAST_PROMPTS, LEAST_PROMPTS_DIFFERENCE
from ..records.schema import BUCKET_LABELS
from .bands import band
from .comparison import Comparison, comparisons
from .curves import against_pass_at_1, evaluations, pass_at_1, pass_at_k_curves, samples_per_prompt
from .figure_titles import (
    entropy_against_steps_title,
    equal_pass_at_1_titles,
    furthest_title,
    head_title,
    losers_title,
    pass_at_k_title,
    unexplained_title,
)
from .gaps import gap_curves
from .prediction_curves import shares_over_time, unexplained
from .sources import Source, runs_of
from .token_pictures import FlowData, TokenPicture, token_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..records import Run

__all__ = [
    "NothingToDraw",
    "dynamics_figure",
    "followed",
    "mass_flow_figure",
    "pass_at_k_figure",
    "prediction_figure",
    "step_shares_figure",
    "token_figure",
    "uncertainty",
]

LONGEST_PREFIX = 30  # characters
LEAST_SHOWN, FEWEST_SHOWN = 0.005, 3  # probability of a token in the pictures of contexts, and how many there are

DYNAMICS_CAPTION = """Test prompts that every evaluation has. Entropy: mean over the tokens of fixed prefixes. Above:
the methods after the same number of steps (rollout batches), when they have come to different accuracies. """
EQUAL_CAPTION = """Below: compared where their Pass@1 on validation prompts is equal, arrows in the direction of time;
right: {} − {} there, paired over prompts; the titles are of the highest Pass@1 that all reach. Effective solutions: exp
of the entropy of the distribution over correct responses. """
PASS_AT_K_CAPTION = """{} of the base and of the last policies on test prompts. Above: the axis is spaced by failures,
−log(1 − Pass@k). Below: the methods minus {}, paired over prompts. """
TOKEN_CAPTION = """★ the sampled token y. Bars: probabilities before and after one update. Arrows, each on its own
scale: the push of ★ alone, the descent direction of its loss in the logits; and the change of these logits that the
whole update made (mean under π set to 0), which differs because the rest of the batch moves the context too. Shown: of
all recorded contexts whose token had a weight of that sign, the one that changed most (total variation), and its tokens
with a probability of at least {:g}. One seed, one context each: no interval."""
FLOW_CAPTION = """Change of the probability mass of the tokens that had these ranks before each update, summed over the
updates so far{}; mean over held-out contexts. """
PREDICTION_CAPTION = """Fraction of the variance of the changes of log π(y) in one update that its first order, the JVP
of the actual parameter step, leaves unexplained (1% is R² = 0.99); all followed contexts. Single contexts with large
steps dominate it. The JVP is of the whole step; the law of a token's own push alone is another prediction, in the
table of single tokens' laws. """
SHARES_CAPTION = """Whose gradients the predicted Δ log π(y) came from, at contexts of rewarded responses, of unrewarded
ones and of held-out prompts: fraction Σ x·j / Σ j² of the whole change j for a part x of the step. A source has the
whole impulse of its gradients, momentum included, with Adam's v̂ as it was; the sources add to one. History: all that
came from the gradients of earlier updates. """


class NothingToDraw(Exception):
    """The records that a figure needs are missing; the message says which."""


def dynamics_figure(source: Source) -> Figure:
    """Pass@1 and entropy against steps; below, entropy against Pass@1, and the difference of two methods there.

    Args:
        source: an experiment, a run or runs. One method alone, or methods without a common range of Pass@1, have the
            first two panels.

    Raises:
        NothingToDraw: no evaluation with Pass@1 was recorded.

    Example:
        >>> dynamics_figure(analysis.load_trace("runs/…"))  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    runs = [run for run in runs_of(source) if run.rows("evals")]
    over_steps = pass_at_1(runs, "test") if runs else None
    if over_steps is None or over_steps.empty:
        raise NothingToDraw("no evaluation with Pass@1 was recorded")
    groups = comparisons({run.run_id: run for run in runs})
    comparison = groups[0] if len(groups) == 1 else None
    entropy = band(evaluations(runs, "test"), ["step"], "entropy_fixed")
    lower = comparison is not None and _has_range(comparison)
    samples = samples_per_prompt(run.table("evals") for run in runs)
    estimated = "" if samples is None else ", estimated"
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 4.9 if lower else 2.8))
        axes = figure.subplots(2 if lower else 1, 2, squeeze=False)
        for ax, data, title, unit in (
            (axes[0, 0], over_steps, furthest_title(over_steps, "Pass@1"), f"Pass@1{estimated}"),
            (axes[0, 1], entropy, entropy_against_steps_title(comparison, entropy), "entropy (nats)"),
        ):
            plots.curve(ax, data, x="step", interval="last")
            plots.heading(ax, title)
            ax.set_xlabel("step")
            ax.set_ylabel(unit)
        caption = DYNAMICS_CAPTION
        if comparison is not None and lower:
            first, second = equal_pass_at_1_titles(comparison)
            plots.path(axes[1, 0], against_pass_at_1(runs, "entropy_fixed"), x="reached")
            axes[1, 0].set_ylabel("entropy (nats)")
            plots.gap(axes[1, 1], gap_curves(comparison), x="reached")
            axes[1, 1].set_ylabel(f"{' − '.join(comparison.pairs[0])} (nats)")
            axes[1, 1].legend(loc="best")
            for ax, title in zip(axes[1], (first, second), strict=True):
                plots.heading(ax, title)
                ax.set_xlabel(f"Pass@1{estimated}")
            caption += EQUAL_CAPTION.format(*comparison.pairs[0])
        if len({run.label for run in runs}) > 1:
            for ax in [*axes[0], *axes[1:, 0]]:
                plots.direct_labels(ax)
        estimate = "" if samples is None else f"Pass@1 is estimated, from {samples} samples a prompt. "
        plots.caption(figure, caption + estimate + uncertainty(runs, "prompts", "bars and bands"))
        return figure


def _has_range(comparison: Comparison) -> bool:
    """Whether the methods can be compared at equal Pass@1."""
    if not comparison.pairs:
        return False
    try:
        comparison.levels()
    except EmptyRangeError:
        return False
    return True


def pass_at_k_figure(source: Source) -> Figure:
    """Pass@k of the base and of the last policies, and differences to PSR, one column for each temperature.

    Without PSR, or for one method alone, the differences are to the base.

    Raises:
        NothingToDraw: no evaluation has Pass@k for more than one k.
    """
    from matplotlib.figure import Figure

    runs = [run for run in runs_of(source) if run.rows("evals")]
    labels = {run.label for run in runs}
    minus = "PSR" if "PSR" in labels and len(labels) > 1 else plots.BASE
    data = pass_at_k_curves(runs, minus=minus) if runs else None
    if data is None or data["k"].nunique() < 2:
        raise NothingToDraw("no evaluation with success probabilities, or with several samples a prompt, was recorded")
    samples = samples_per_prompt(run.table("evals") for run in runs)
    panels = list(dict.fromkeys(data["sampling"]))
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES if len(panels) == 1 else plots.PAGE_INCHES, 4.4))
        axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row")
        every = data[data["quantity"] == "value"].assign(low=np.nan, high=np.nan)
        for sampling, (values, differences) in zip(panels, axes.T, strict=True):
            rows = data[data["sampling"] == sampling]
            compared = rows[rows["quantity"] == "difference"]
            plots.pass_at_k(values, every[every["sampling"] == sampling], among=every)  # intervals: paired, below
            plots.pass_at_k_difference(differences, compared)
            plots.heading(values, f"Sampled at {sampling}")
            plots.heading(differences, pass_at_k_title(compared, minus))
            differences.set_xlabel("k (responses per prompt)")
        axes[0, 0].set_ylabel("Pass@k")
        axes[1, 0].set_ylabel(f"Pass@k − {minus}")
        for ax in axes[:, -1]:
            plots.direct_labels(ax)
        what = "Exact Pass@k" if samples is None else f"Pass@k, estimated from {samples} samples a prompt,"
        caption = PASS_AT_K_CAPTION.format(what, "the base" if minus == plots.BASE else minus)
        plots.caption(figure, caption + uncertainty(runs, "prompts"))
        return figure


def uncertainty(runs: Sequence[Run], over: str | None, what: str = "bands") -> str:
    """What the bands of a figure are, as a sentence for its caption; without `over` one seed has none."""
    seeds = max(len({run.seed for run in runs if run.label == label}) for label in {run.label for run in runs})
    if seeds > 1:
        return f"{what.capitalize()}: 95% t intervals over {seeds} seeds."
    if over is None:
        return "One seed: no bands."
    return (
        f"One seed; {what}: 95% intervals over {over}; none below {LEAST_PROMPTS} prompts "
        f"({LEAST_PROMPTS_DIFFERENCE} for differences), or where a few of them decide."
    )


def token_figure(source: Source) -> Figure:
    """One context with a positively weighted token, beside one with a negatively weighted token of another method.

    Which contexts are shown is a rule, see `token_pictures`.

    Raises:
        NothingToDraw: no update recorded a context whose token had a weight.
    """
    from matplotlib.figure import Figure

    pictures = _pictures(runs_of(source))
    if not pictures:
        raise NothingToDraw("no update recorded a context whose token had a weight (record.contexts)")
    with plots.style():
        alone = len(pictures) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES, 3.0) if alone else (plots.PAGE_INCHES, 2.3))
        grid = figure.add_gridspec(1, 3 * len(pictures), width_ratios=[1.3, 0.8, 0.8] * len(pictures))
        for i, picture in enumerate(pictures):
            axes = [figure.add_subplot(grid[0, 3 * i + j]) for j in range(3)]
            _token_axes(axes, picture)
        plots.caption(figure, TOKEN_CAPTION.format(LEAST_SHOWN))
        return figure


def _pictures(runs: Sequence[Run]) -> list[TokenPicture]:
    up = next((picture for run in runs if (picture := token_picture(run, 1))), None)
    others = [run for run in runs if up is None or run.label != up.label]
    down = next((picture for run in [*others, *runs] if (picture := token_picture(run, -1))), None)
    return [picture for picture in (up, down) if picture]


def _token_axes(axes: Sequence[Axes], picture: TokenPicture) -> None:
    tokens = picture.tokens
    seen = tokens[["before", "after"]].max(axis=1) >= LEAST_SHOWN
    tokens = tokens[seen | tokens["sampled"] | (np.arange(len(tokens)) < FEWEST_SHOWN)]
    plots.token_bars(axes[0], tokens, numbers=True)
    plots.logit_arrows(axes[1], tokens, column="gradient")
    plots.logit_arrows(axes[2], tokens, column="dlogit")
    sampled = tokens[tokens["sampled"]].iloc[0]
    way = "up" if picture.weight > 0 else "down"
    moved = f"π(y) {sampled['before']:.2f} → {sampled['after']:.2f}"
    prefix = picture.prefix if len(picture.prefix) <= LONGEST_PREFIX else "… " + picture.prefix[-LONGEST_PREFIX:]
    axes[0].set_title(f"{picture.label} pushes ★ {way}: {moved}\nafter “{prefix}”", loc="left")
    axes[0].set_xlabel("probability")
    axes[0].legend(loc="lower right")
    axes[1].set_xlabel("push of ★ alone")
    axes[2].set_xlabel("whole update")


def mass_flow_figure(source: Source, data: FlowData | None = None) -> Figure:
    """Change of probability mass by rank: the most probable token over training, and all ranks at its end.

    One method alone has a single panel with all ranks over training.

    Args:
        source: an experiment, a run or runs.
        data: what was read already; it may hold more runs than are drawn.

    Raises:
        NothingToDraw: no contexts were followed through updates.
    """
    from matplotlib.figure import Figure

    runs, data = followed(source, data)
    flows = data.bucket_flows()
    alone = flows["label"].nunique() == 1
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES, 2.9) if alone else (plots.PAGE_INCHES, 2.8))
        if alone:
            ax = figure.subplots()
            plots.bucket_flow(ax, flows)
            plots.heading(ax, head_title(flows))
            plots.legend(figure, [ax], title="rank of the tokens before the update")
            over_time = ax
        else:
            over_time, by_rank = figure.subplots(1, 2)
            head = flows[flows["bucket"] == BUCKET_LABELS[0]]
            plots.reference_line(over_time)
            plots.curve(over_time, head, x="update", interval="last")
            plots.heading(over_time, head_title(flows))
            plots.direct_labels(over_time)
            ends = flows[flows["update"] == flows.groupby("label")["update"].transform("max")]
            plots.rank_flow(by_rank, ends)
            plots.heading(by_rank, losers_title(ends))
            by_rank.set_xlabel("rank before each update")
            by_rank.legend(loc="best")
        over_time.set_ylabel("change of mass, summed")
        over_time.set_xlabel("optimiser update")
        where = (
            "" if alone else ": left, of the most probable token over time; right, of all ranks after the last update"
        )
        caption = FLOW_CAPTION.format(where) + uncertainty(runs, "prompts of the held-out contexts", "bars and bands")
        plots.caption(figure, caption)
        return figure


def prediction_figure(source: Source, data: FlowData | None = None) -> Figure:
    """What the first order of the parameter step leaves unexplained of Δ log π(y), one line a method.

    Args and errors are those of `mass_flow_figure`.
    """
    from matplotlib.figure import Figure

    runs, data = followed(source, data)
    left = unexplained(data.flows)
    left = left[left["quantity"] == "log π(y)"].dropna(subset=["value"])
    if left.empty:
        raise NothingToDraw("no update recorded the JVP of its step (record.jvp_every)")
    with plots.style():
        figure = Figure(figsize=(plots.COLUMN_INCHES, 3.4))
        ax = figure.subplots()
        plots.unexplained(ax, left)
        plots.heading(ax, unexplained_title(left))
        ax.set_xlabel("optimiser update")
        ax.set_ylabel("unexplained, 1 − R²")
        if left["label"].nunique() > 1:
            plots.direct_labels(ax)
        plots.caption(figure, PREDICTION_CAPTION + uncertainty(runs, None))
        return figure


def step_shares_figure(source: Source, data: FlowData | None = None) -> Figure:
    """Whose gradients the first-order change of log π(y) came from: rewarded, unrewarded, regularisers, momentum.

    Args and errors are those of `mass_flow_figure`.
    """
    from matplotlib.figure import Figure

    runs, data = followed(source, data)
    parts = shares_over_time(data.flows)
    if parts.empty:
        raise NothingToDraw("no update recorded its JVP by source (record.jvp_every, record.shares_every)")
    labels, kinds = list(dict.fromkeys(run.label for run in runs)), ("rewarded", "unrewarded", "panel")
    with plots.style():
        alone = len(labels) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES, 5.0) if alone else (plots.PAGE_INCHES, 4.7))
        axes = figure.subplots(3, len(labels), squeeze=False, sharey="row", sharex="col")
        for label, column in zip(labels, axes.T, strict=True):
            plots.heading(column[0], label)
            for ax, contexts in zip(column, kinds, strict=True):
                rows = parts[parts["contexts"] == contexts]
                plots.part_lines(ax, rows[rows["label"] == label], among=rows)
            column[-1].set_xlabel("optimiser update")
        for ax, name in zip(axes[:, 0], ("rewarded", "unrewarded", "held out"), strict=True):
            ax.set_ylabel(f"fraction,\n{name}")
        plots.legend(figure, list(axes.flat), title="gradients of", columns=3 if alone else 5)
        plots.caption(figure, SHARES_CAPTION + uncertainty(runs, "prompts"))
        return figure


def followed(source: Source, data: FlowData | None) -> tuple[list[Run], FlowData]:
    """The runs whose contexts were followed, and these contexts; NothingToDraw where there are none."""
    runs = [run for run in runs_of(source) if run.rows("flows")]
    if not runs:
        raise NothingToDraw("no contexts were followed through updates (record.contexts)")
    return runs, FlowData.of(runs) if data is None else data.only(run.run_id for run in runs)
