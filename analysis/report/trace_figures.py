"""The figures of recorded tokens: boundaries, positions, weights over updates, mass flow by rank, and the tokens that
carry the gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import plots
from ..evaluation.interval_kinds import LEAST_PROMPTS
from .mechanism_figures import phase_plane_figure
from .png import save_figure
from .trace_data import ALL, MEASURED, REWARDED, UNREWARDED, TraceData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..records import Run

__all__ = [
    "boundaries_figure",
    "gradient_tokens_figure",
    "positions_figure",
    "rank_flow_figure",
    "weights_figure",
    "write_trace_figures",
]

MOST_TOKENS = 8
LONGEST_LINEAR = 30  # positions; longer responses have a logarithmic axis
_COLUMNS = 3  # of objectives
_INTERVAL = f" Bands and bars: 95% over prompts; none below {LEAST_PROMPTS} prompts, or where a few of them decide."

_POSITION_PANELS = (
    ("entropy", "Where in the response is the model unsure?", "entropy (nats)"),
    ("below", "Where does NSR drain the tail as well?", r"fraction with $\pi(y) < c$"),
)

BOUNDARIES_CAPTION = """Each response token by its probability π(y) (below 10⁻⁶ at the edge) and, left, c = Σπ² of its
context, with the collision crossing c = π(y): above it NSR of the token drains the tail as well as y, and the head
takes all; middle, the entropy of its context, with π(y) = e^(−entropy): to the left of it NSR lowers the entropy.
Right: fraction of tokens whose NSR raises the entropy, by π(y)."""
POSITIONS_CAPTION = """Left: mean entropy of the model by position in the response (counted from 1). Right: fraction of
tokens with π(y) < c, the collision probability."""
WEIGHTS_CAPTION = """Means over the recorded tokens of successive updates. Weight: w = −∂L/∂log π(y), measured on the
loss. Own effect on entropy: first-order change of the entropy of the token's own context at a unit logit step; its
sign and order count, its scale is that of the step."""
FLOW_CAPTION = """First order at a unit logit step of each token in its own context: change of the mass by rank before
the step, mean over all tokens, as tokens of rewarded and of unrewarded responses contribute. Scales differ by
objective."""
TOKENS_CAPTION = """Fraction of Σ|w|·‖e_y − π‖₂ that the occurrences of a token carry, among tokens with positive
weights (blue) and with negative weights (vermilion). ␣ space, ⏎ line break."""


def boundaries_figure(data: TraceData) -> Figure:
    """Where the tokens sit against the collision probability and against e^(−entropy), and where NSR raises entropy."""
    from matplotlib.figure import Figure

    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 2.75))
        left, middle, right = figure.subplots(1, 3)
        plots.collision_density(left, data.tokens)
        shade = plots.rarity_density(middle, data.tokens)
        figure.colorbar(shade, ax=middle, label="tokens", pad=0.02, aspect=28)
        shares = data.by_probability()
        plots.curve(right, shares[shares["quantity"] == "raises"], x="prob")
        right.set_xscale("log")
        right.set_ylim(-0.03, 1.03)
        right.set_xlabel(r"$\pi(y)$")
        right.set_ylabel("fraction of tokens")
        for ax, text in (
            (left, rf"{_part(data, 'below')} of tokens: $\pi(y) < c$"),
            (middle, rf"{_part(data, 'rare')} are rare: $\pi(y) < e^{{-H}}$"),
            (right, f"NSR raises entropy at {_part(data, 'raises')}"),
        ):
            plots.heading(ax, text)
        if len(data.signs) > 1:
            right.legend(loc="upper left", borderaxespad=0.2)
        plots.caption(figure, BOUNDARIES_CAPTION + _INTERVAL)
        return figure


def _part(data: TraceData, column: str) -> str:
    """The fraction of tokens with a property as text."""
    return f"{100 * data.tokens[column].mean():.0f}%"


def positions_figure(data: TraceData) -> Figure:
    """Entropy and fraction with π(y) < c by position in the response."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    by_position = data.by_position()
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 2.4))
        axes = figure.subplots(1, 2)
        for ax, (quantity, title, unit) in zip(axes, _POSITION_PANELS, strict=True):
            plots.curve(ax, by_position[by_position["quantity"] == quantity], x="position")
            if by_position["position"].max() > LONGEST_LINEAR:
                ax.set_xscale("log")
                ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
                ax.xaxis.set_minor_locator(NullLocator())
            else:
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylim(bottom=0)
            ax.set_xlabel("position in the response")
            ax.set_ylabel(unit)
            plots.heading(ax, title)
        plots.legend(figure, [axes[0]])
        plots.caption(figure, POSITIONS_CAPTION + _INTERVAL)
        return figure


def weights_figure(data: TraceData) -> Figure:
    """Entropy, probability of the sampled token, weights and their own effect on entropy over updates."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    by_update = data.by_update()
    panels = (
        ("entropy", "entropy (nats)"),
        ("prob", "probability of the sampled token"),
        ("weight", "mean weight"),
        ("effect", "own effect on entropy"),
    )
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 4.2))
        axes = figure.subplots(2, 2, sharex=True).ravel()
        for ax, (quantity, title) in zip(axes, panels, strict=True):
            plots.curve(ax, by_update[by_update["quantity"] == quantity], x="update")
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            plots.heading(ax, title)
            if quantity in ("weight", "effect"):
                plots.reference_line(ax)
                ax.set_xlabel("optimiser update")
        plots.legend(figure, [axes[0]])
        plots.caption(figure, WEIGHTS_CAPTION + _INTERVAL)
        return figure


def rank_flow_figure(data: TraceData) -> Figure:
    """Where the mass would go by rank under each objective, by reward sign."""
    from matplotlib.figure import Figure

    flows = {name: _held(data.mass_flow(name)) for name, weight in data.weights.items() if weight.any()}
    objectives = list(flows)
    columns = min(_COLUMNS, len(objectives))
    rows = -(-len(objectives) // columns)
    with plots.style():
        width = plots.COLUMN_INCHES if columns == 1 else plots.PAGE_INCHES
        figure = Figure(figsize=(width, 0.9 + 1.9 * rows))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, objective in zip(axes, objectives, strict=False):
            flow = flows[objective]
            signs = flow[flow["label"] != ALL]
            plots.rank_flow(ax, signs if len(signs) else flow)
            plots.heading(ax, _lines(objective))
        for ax in axes[len(objectives) :]:
            ax.set_axis_off()
        for ax in axes[::columns]:
            ax.set_ylabel("change of mass per token")
        plots.legend(figure, list(axes[: len(objectives)]))
        plots.caption(figure, FLOW_CAPTION + _INTERVAL)
        return figure


def _held(flow: pd.DataFrame) -> pd.DataFrame:
    """The rows of rank buckets up to the last one through which mass goes."""
    used = flow.loc[flow["value"] != 0, "bucket"].tolist()
    buckets = list(dict.fromkeys(flow["bucket"]))
    last = max((buckets.index(bucket) for bucket in used), default=len(buckets) - 1)
    return flow[flow["bucket"].isin(buckets[: last + 1])]


def gradient_tokens_figure(data: TraceData) -> Figure:
    """The tokens that carry the positive and the negative gradient of each objective, side by side."""
    from matplotlib.figure import Figure

    tables = [
        (objective, sign, rows)
        for objective in data.weights
        for sign in (1, -1)
        if len(rows := data.gradient_tokens(objective, sign, MOST_TOKENS))
    ]
    columns = min(2 * (_COLUMNS - 1), len(tables))
    lines = -(-len(tables) // columns)
    limit = 1.05 * float(np.nanmax([np.fmax(rows["high"], rows["value"]).max() for *_, rows in tables]))
    with plots.style():
        width = plots.COLUMN_INCHES if columns == 1 else plots.PAGE_INCHES
        figure = Figure(figsize=(width, 0.75 + 1.9 * lines))
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, (objective, sign, rows) in zip(axes, tables, strict=False):
            plots.carrying_tokens(ax, rows, label=REWARDED if sign > 0 else UNREWARDED, limit=min(limit, 1.0))
            plots.heading(ax, f"{_lines(objective)}\nw {'>' if sign > 0 else '<'} 0")
            ax.set_xlabel("fraction of the gradient")
        for ax in axes[len(tables) :]:
            ax.set_axis_off()
        plots.caption(figure, TOKENS_CAPTION + _INTERVAL)
        return figure


def _lines(objective: str) -> str:
    """A name and its parameters below one another."""
    return objective.replace(",", ",\n")


def write_trace_figures(run: Run, data: TraceData | None = None, folder: Path | None = None) -> list[Path]:
    """Write the figures of the tokens of a run as PNG.

    Args:
        run: any run that recorded tokens.
        data: its tokens, where they have been read already.
        folder: where; unset: the run's own `figures/`.

    Returns:
        The paths. Figures of weights need weights that are not all zero, those of mass by rank recorded ranks.
    """
    data = TraceData.of(run) if data is None else data
    figures: dict[str, Callable[[TraceData], Figure]] = {
        "phase_plane": lambda drawn: phase_plane_figure(drawn.run, drawn),
        "boundaries": boundaries_figure,
        "positions": positions_figure,
    }
    if MEASURED in data.weights and data.tokens["update"].nunique() > 1:
        figures["weights"] = weights_figure
    if any(weight.any() for weight in data.weights.values()):
        figures |= {"rank_flow": rank_flow_figure} if data.flow is not None else {}
        figures["gradient_tokens"] = gradient_tokens_figure
    paths = []
    for name, make in figures.items():
        paths.append((run.folder / "figures" if folder is None else folder) / f"{name}.png")
        save_figure(make(data), paths[-1])
    return paths
