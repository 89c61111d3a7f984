"""What a factorial says: tables of factors and of methods, and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..common.tables import Cell as Estimate
from ..common.tables import Column, Table
from ..evaluation import interval
from .attribution import factor_shares, interactions
from .cells import CellRun, Cells
from .factors import Factor, cell_name, factor_labels
from .method_gaps import LEVELS, METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Findings", "figure", "findings"]

_TITLES = {
    "entropy_correct": "entropy among correct responses (log of their effective number), nats",
    "entropy": "entropy over all responses, nats",
    "pass@8": "Pass@8",
}
_KEYS = {"entropy_correct": "entropy_correct", "entropy": "entropy", "pass@8": "pass_at_8"}
_HEADINGS = {
    "entropy_correct": "entropy among correct responses (nats)",
    "entropy": "entropy over all responses (nats)",
    "pass@8": "Pass@8",
}
_KINDS = ("first in", "Shapley", "last out")
_VIEWS = {"matched": "at equal Pass@1", "last": "at equal steps"}
_WHERE = {"matched": "at equal Pass@1", "steps": "at equal steps"}  # the keys of the tables


@dataclass(frozen=True)
class Findings:
    """Effects by method, metric and view, and the tables that show them.

    Attributes:
        shares: Rows of `factor_shares`, with method, metric and view.
        interactions: Rows of `interactions`, likewise; none without the full factorial.
        tables: What is printed.
        labels: What each factor is called.
    """

    shares: pd.DataFrame
    interactions: pd.DataFrame
    tables: tuple[Table, ...]
    labels: dict[str, str]

    def to_markdown(self, title: str) -> str:
        return "\n".join([f"# {title}\n", *(table.to_markdown() for table in self.tables)])


def findings(table: pd.DataFrame, factors: Sequence[Factor], settings: Cells) -> Findings:
    """All effects from the rows of `gaps`."""
    shares: list[pd.DataFrame] = []
    pairs: list[pd.DataFrame] = []
    for (method, metric), rows in table.groupby(["method", "metric"], sort=False):
        for view in _VIEWS:
            for effects, into in ((factor_shares, shares), (interactions, pairs)):
                found = effects(rows, factors, column=view)
                into.append(found.assign(method=str(method), metric=str(metric), view=view))
    all_shares, all_pairs = pd.concat(shares, ignore_index=True), pd.concat(pairs, ignore_index=True)
    labels = factor_labels(factors, settings.optimizer)
    tables = [_factor_table(all_shares, labels, metric) for metric in METRICS]
    tables.append(_method_table(table, factors, settings))
    if len(all_pairs):
        tables.append(_pair_table(all_pairs, labels))
    return Findings(all_shares, all_pairs, tuple(tables), labels)


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]))


def _factor_table(shares: pd.DataFrame, labels: Mapping[str, str], metric: str) -> Table:
    of = shares[(shares["method"] == "NSR") & (shares["metric"] == metric)]
    kinds = [kind for kind in _KINDS if (of["kind"] == kind).any()]
    lines: list[tuple[Estimate | str, ...]] = []
    for name, label in labels.items():
        cells: list[Estimate | str] = []
        for view in _VIEWS:
            for kind in kinds:
                (row,) = [r for _, r in of[(of.factor == name) & (of.view == view) & (of.kind == kind)].iterrows()]
                cells.append(_estimate(row))
        lines.append((label, *cells))
    total: list[Estimate | str] = []
    for view in _VIEWS:
        (row,) = [r for _, r in of[(of.factor == "all") & (of.view == view)].iterrows()]
        total += ["–"] * (len(kinds) - 1) + [_estimate(row)]
    lines.append(("everything on", *total))
    columns = [
        Column(f"{kind}, {view}", "_".join((*kind.lower().split(), where)))
        for where, view in _WHERE.items()
        for kind in kinds
    ]
    note = (
        "Contribution of each factor to the gap NSR − PSR, ± half of a 95% t interval over seeds. at equal "
        f"Pass@1: mean over the levels {', '.join(f'{level:g}' for level in LEVELS)} that both reached; at equal "
        "steps: after the last step."
    )
    return Table(_TITLES[metric], ("", *columns), tuple(lines), note, key=f"factors_{_KEYS[metric]}")


def _method_table(table: pd.DataFrame, factors: Sequence[Factor], settings: Cells) -> Table:
    everything = cell_name(frozenset(factor.name for factor in factors))
    of = table[table["cell"] == everything]
    lines: list[tuple[Estimate | str, ...]] = []
    for method, rows in of.groupby("method", sort=False):
        cells = []
        for view in _VIEWS:
            for metric in METRICS:
                known = rows[rows["metric"] == metric][view].dropna()
                found = interval(known, over="seeds") if len(known) > 1 else None
                cells.append(Estimate(found.estimate, found.low, found.high) if found else Estimate(float("nan")))
        first = rows[rows["metric"] == METRICS[0]]
        reached = f"{int((first['levels'] > 0).sum())} of {len(first)}"
        lines.append((str(method), reached, *cells))
    columns = [
        Column(f"{_HEADINGS[metric]}, {view}", f"{_KEYS[metric]}_{where}")
        for where, view in _WHERE.items()
        for metric in METRICS
    ]
    note = f"All factors on ({settings.optimizer}); reached: seeds that share a level of Pass@1 with PSR."
    return Table("every method against PSR", ("", "reached", *columns), tuple(lines), note, key="methods")


def _pair_table(pairs: pd.DataFrame, labels: Mapping[str, str]) -> Table:
    of = pairs[(pairs["method"] == "NSR") & (pairs["view"] == "matched")]
    lines: list[tuple[Estimate | str, ...]] = []
    for (first, second), rows in of.groupby(["first", "second"], sort=False):
        cells = [_estimate(rows[rows["metric"] == metric].iloc[0]) for metric in METRICS]
        lines.append((f"{labels[str(first)]} × {labels[str(second)]}", *cells))
    title = "pairwise interactions in the gap NSR − PSR at equal Pass@1"
    columns = [Column(_HEADINGS[metric], _KEYS[metric]) for metric in METRICS]
    return Table(title, ("", *columns), tuple(lines), key="interactions")


def figure(found: Findings, runs: Mapping[tuple[str, str], CellRun], factors: Sequence[Factor]) -> Figure:
    """Paths with nothing and with everything on, contributions at matched Pass@1 and at equal steps, interactions."""
    from matplotlib.figure import Figure

    from ..plots import PAGE_INCHES, caption, heading, legend, style
    from ..plots.factorial_effects import factor_effects, interaction_grid, metric_against_success

    names = [factor.name for factor in factors]
    full = len(found.interactions) > 0
    with style():
        drawn = Figure(figsize=(PAGE_INCHES, 7.4 if full else 4.9), layout="constrained")
        rows: Any = drawn.subfigures(3 if full else 2, 1, height_ratios=(1, 1.15, 1.1) if full else (1, 1.15))
        above = rows[0].subplots(1, 2, sharex=True, sharey=True)
        for ax, cell, text in (
            (above[0], "none", "a  nothing on: one path for both"),
            (above[1], cell_name(frozenset(names)), "b  every factor on"),
        ):
            curves = {
                method: (runs[cell, method].values["pass@1"], runs[cell, method].values["entropy_correct"])
                for method in ("PSR", "NSR")
            }
            metric_against_success(ax, curves)
            heading(ax, text)
        above[0].set_ylabel("entropy among correct\nresponses (nats)")
        legend(rows[0], above)
        below = rows[1].subplots(1, 2, sharey=True)
        for ax, view, letter in zip(below, _VIEWS, "cd", strict=True):
            of = found.shares
            of = of[(of["method"] == "NSR") & (of["metric"] == "entropy_correct") & (of["view"] == view)]
            factor_effects(ax, of.assign(factor=of["factor"].map(found.labels)), list(found.labels.values()))
            heading(ax, f"{letter}  {_VIEWS[view]}")
            ax.set_xlabel("contribution to NSR − PSR (nats)")
        legend(rows[1], below)
        if full:
            grid = rows[2].subplots()
            of = found.interactions
            of = of[(of["method"] == "NSR") & (of["metric"] == "entropy_correct") & (of["view"] == "matched")]
            named = of.assign(**{end: of[end].map(found.labels) for end in ("first", "second")})
            interaction_grid(grid, named, list(found.labels.values()))
            heading(grid, "e  pairwise interactions at equal Pass@1 (nats); bold: the 95% interval excludes 0")
        caption(
            drawn,
            "Exact policies; thin lines are seeds, intervals are 95% t over paired seeds. First in: the effect of a "
            "factor alone; last out: what is lost when it alone is switched off; Shapley: mean over all orders.",
        )
    return drawn
