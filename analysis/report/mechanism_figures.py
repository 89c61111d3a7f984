"""What updates do to distributions: where mass goes from rank bucket to rank bucket, and tokens in the phase plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import plots
from ..records.schema import BUCKET_LABELS
from .figures import NothingToDraw, followed
from .sources import Source, runs_of
from .token_pictures import FlowData
from .trace_data import TraceData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bucket_transfers", "flow_diagram_figure", "phase_plane_figure"]

DIAGRAM_CAPTION = """Mean over {} contexts whose token ★ had such a weight, each before and after one update; in
per cent of all probability, seeds together. Ranks are those before the update; ★ counts apart from its rank. Two
distributions tell what each group lost or gained, not whose mass went where: what a group loses is shared among those
that gain, in proportion, context by context, and opposite flows cancel. The whole update moved these contexts, not the
gradient of ★ alone. No intervals."""
PHASE_CAPTION = """Each mark is a sampled token of a recorded update. Above the solid line a negative sample of it
pushes unlikely alternatives down as well; below it all alternatives rise. Colour: the exact sign of what a negative
sample does to the entropy of the token's own context; dashed: where it turns if the alternatives are geometric. First
order; a positive sample does the opposite."""


def bucket_transfers(flows: pd.DataFrame, sign: int) -> tuple[pd.DataFrame, list[str], int] | None:
    """Mass that moved between the sampled token and the rank buckets in the updates of its own batch.

    Args:
        flows: contexts through updates, as `Run.flows` gives them.
        sign: 1 for contexts whose token had a positive weight, −1 for a negative one.

    Returns:
        The ribbons (`plots.transfers`, mean over contexts), the groups from top to bottom, and the number of contexts;
        None where there is no such context.
    """
    rows = flows[(flows["kind"] == "batch") & (flows["weight"] * sign > 0)]
    if rows.empty:
        return None
    change = np.array(rows["dbucket"].tolist(), dtype=float).reshape(len(rows), -1)
    held = np.any(np.array(rows["bucket_mass_before"].tolist(), dtype=float).reshape(change.shape), axis=0)
    own = (np.exp(rows["log_prob_after"]) - np.exp(rows["log_prob_before"])).to_numpy(float)
    change[np.arange(len(rows)), rows["token_bucket"].to_numpy(int)] -= own
    ranks = [f"rank {label}" for label, kept in zip(BUCKET_LABELS, held.tolist(), strict=True) if kept]
    groups = [plots.SAMPLED, *ranks]
    return plots.transfers(np.column_stack([own, change[:, held]]), groups), groups, len(rows)


def flow_diagram_figure(source: Source, data: FlowData | None = None) -> Figure:
    """Where probability goes in one update: from the sampled token to the ranks under a negative weight, and back.

    The first method with positive weights is on the left, another one with negative weights on the right; one panel
    where there is one sign.

    Args:
        source: an experiment, a run or runs.
        data: what was read already; it may hold more runs than are drawn.

    Raises:
        NothingToDraw: no followed context has a token with a weight.

    Example:
        >>> flow_diagram_figure(analysis.load_trace("runs/…"))  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    runs, data = followed(source, data)
    labels = list(dict.fromkeys(run.label for run in runs))
    panels: list[tuple[str, int, pd.DataFrame, list[str], int]] = []
    for sign in (1, -1):
        taken = [label for label, *_ in panels]
        for label in sorted(labels, key=lambda name: name in taken):  # another method first, else the same
            if (found := bucket_transfers(data.flows[data.flows["label"] == label], sign)) is not None:
                panels.append((label, sign, *found))
                break
    if not panels:
        raise NothingToDraw("no context whose token had a weight was followed through an update (record.contexts)")
    with plots.style():
        alone = len(panels) == 1
        figure = Figure(figsize=(plots.COLUMN_INCHES if alone else plots.PAGE_INCHES, 3.3 if alone else 2.9))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (label, sign, ribbons, groups, _) in zip(axes, panels, strict=True):
            plots.flow_diagram(ax, ribbons, groups)
            plots.heading(ax, transfers_title(label, sign, ribbons))
        counts = " and ".join(f"{count:,}" for *_, count in panels)
        plots.caption(figure, DIAGRAM_CAPTION.format(counts))
        return figure


def transfers_title(label: str, sign: int, ribbons: pd.DataFrame) -> str:
    """Who gained most, on balance, and from whom.

    >>> ribbons = pd.DataFrame({"source": ["★ sampled", "rank 2–4"], "target": ["rank 1"] * 2, "value": [0.03, 0.01]})
    >>> transfers_title("NSR", -1, ribbons)
    'NSR, contexts with w < 0: rank 1 gains most,\\n75% of it from ★ sampled'
    """
    head = f"{label}, contexts with w {'>' if sign > 0 else '<'} 0"
    balance = ribbons.groupby("target")["value"].sum().sub(ribbons.groupby("source")["value"].sum(), fill_value=0.0)
    if balance.empty:
        return f"{head}: nothing moves"
    into = ribbons[ribbons["target"] == balance.idxmax()].groupby("source")["value"].sum()
    return f"{head}: {balance.idxmax()} gains most,\n{100 * into.max() / into.sum():.0f}% of it from {into.idxmax()}"


def phase_title(label: str, data: pd.DataFrame) -> str:
    """What negative samples of the recorded tokens do to the entropy, from the columns below and raises."""
    above, raises = (f"{100 * data[name].mean():.0f}%" for name in ("below", "raises"))
    return f"{label}: {above} of tokens lie above the line,\n{raises} raise the entropy as negative samples"


def phase_plane_figure(source: Source, data: TraceData | None = None) -> Figure:
    """The recorded tokens in the plane of π_y and Σπ², with the squeeze and the entropy-sign boundary.

    Args:
        source: a run of any kind that recorded tokens, an experiment or runs; one panel for each method, seeds
            together.
        data: the tokens of a run that is `source`, where they have been read already.

    Raises:
        NothingToDraw: no run recorded tokens.

    Example:
        >>> phase_plane_figure(analysis.load_trace("runs/…"))  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    tokens: dict[str, list[pd.DataFrame]] = {}
    for run in runs_of(source):
        if run.rows("tokens"):
            read = (data or TraceData.of(run)).tokens
            tokens.setdefault(run.label, []).append(read[["prob", "collision", "raises", "below"]])
    if not tokens:
        raise NothingToDraw("no run recorded tokens (record.tokens)")
    columns = min(2, len(tokens))
    lines = -(-len(tokens) // columns)
    with plots.style():
        width = plots.COLUMN_INCHES if columns == 1 else plots.PAGE_INCHES
        figure = Figure(figsize=(width, 0.95 + 3.35 * lines))
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, (label, parts) in zip(axes, tokens.items(), strict=False):
            drawn = pd.concat(parts, ignore_index=True)
            plots.phase_plane(ax, drawn)
            plots.heading(ax, phase_title(label, drawn))
        for ax in axes[len(tokens) :]:
            ax.set_axis_off()
        plots.caption(figure, PHASE_CAPTION)
        return figure
