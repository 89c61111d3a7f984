"""What a factorial says: tables of factors and of methods, and one figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..common.tables import Cell as Estimate
from ..common.tables import Column, Table
from ..evaluation import interval
from ..evaluation.interval_kinds import Kind
from .attribution import cell_differences, factor_shares, interactions
from .cells import CellRun, Cells
from .factors import Factor, cell_name, factor_labels
from .method_gaps import LEVELS, METRICS, gaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Findings", "figure", "findings"]

Effects = Callable[..., pd.DataFrame]

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
        differences: Rows of `cell_differences`, likewise.
        clipped: Of the tokens with an advantage, over the whole run, the fraction that the clip held: cell, method,
            value, low, high, n.
        tables: What is printed.
        labels: What each factor is called.
    """

    shares: pd.DataFrame
    interactions: pd.DataFrame
    differences: pd.DataFrame
    clipped: pd.DataFrame
    tables: tuple[Table, ...]
    labels: dict[str, str]

    def to_markdown(self, title: str) -> str:
        return "\n".join([f"# {title}\n", *(table.to_markdown() for table in self.tables)])


def findings(runs: Iterable[CellRun], factors: Sequence[Factor], settings: Cells) -> Findings:
    """All effects, from every method in every cell that was run."""
    runs = list(runs)
    table = gaps(runs)
    effects: dict[Effects, list[pd.DataFrame]] = {factor_shares: [], interactions: [], cell_differences: []}
    for (method, metric), rows in table.groupby(["method", "metric"], sort=False):
        for view in _VIEWS:
            for effect, parts in effects.items():
                part = effect(rows, factors, column=view)
                parts.append(part.assign(method=str(method), metric=str(metric), view=view))
    shares, pairs, differences = (pd.concat(parts, ignore_index=True) for parts in effects.values())
    clipped = _clipped(runs)
    labels = factor_labels(factors, settings.optimizer)
    tables = [_factor_table(shares, labels, metric) for metric in METRICS]
    tables.append(_method_table(table, factors, settings))
    tables.append(_difference_table(differences, labels))
    if len(pairs):
        tables.append(_pair_table(pairs, labels))
    tables.append(_clipped_table(clipped, labels))
    return Findings(shares, pairs, differences, clipped, tuple(tables), labels)


def _clipped(runs: Iterable[CellRun]) -> pd.DataFrame:
    rows = []
    for run in runs:
        if "clip" in run.cell.split("+"):
            mean = interval(run.values["clipped"][-1], over="seeds")
            ends = {"value": mean.estimate, "low": mean.low, "high": mean.high, "n": run.updates.shape[1]}
            rows.append({"cell": run.cell, "method": run.method} | ends)
    return pd.DataFrame(rows, columns=["cell", "method", "value", "low", "high", "n"])


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), kind=Kind.SEED_MEAN)


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
        "steps: after the last step. Passes at full rate are compared with passes at ¼ rate, and the clip with passes "
        "at full rate without it."
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
                cells.append(Estimate.of(found) if found else Estimate(float("nan")))
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
    note = (
        "v(both) − v(one) − v(other) + v(neither), averaged over all settings of the other factors. What a pair adds "
        "with all other factors off is another index, in the table before this one."
    )
    return Table(title, ("", *columns), tuple(lines), note, key="interactions")


def _cell_label(cell: str, labels: Mapping[str, str], without: str = "none") -> str:
    """The factors of a cell that `without` has not; passes at the full rate need no other mention."""
    names = [name for name in cell.split("+") if name not in without.split("+")]
    names = [name for name in names if name != "none" and not (name == "reuse" and "rate" in names)]
    return " + ".join(labels[name] for name in names) or "nothing"


def _difference_table(differences: pd.DataFrame, labels: Mapping[str, str]) -> Table:
    of = differences[(differences["method"] == "NSR") & (differences["view"] == "matched")]
    lines: list[tuple[Estimate | str, ...]] = []
    for (first, second), rows in of.groupby(["first", "second"], sort=False):
        cells = [_estimate(rows[rows["metric"] == metric].iloc[0]) for metric in METRICS]
        more = _cell_label(str(second), labels, without=str(first))
        lines.append((_cell_label(str(first), labels), more, *cells))
    title = "what is added to the gap NSR − PSR at equal Pass@1, all other factors off"
    columns = [Column("on before", "before"), Column("switched on", "switched_on")]
    columns += [Column(_HEADINGS[metric], _KEYS[metric]) for metric in METRICS]
    note = "The gap with the factors of both columns on, minus the gap with those of the first column alone."
    return Table(title, tuple(columns), tuple(lines), note, key="cells")


def _clipped_table(clipped: pd.DataFrame, labels: Mapping[str, str]) -> Table:
    alone = frozenset({"reuse", "rate", "clip"})
    wanted = {
        cell_name(alone | others): heading
        for others, heading in (
            (frozenset[str](), "alone"),
            (frozenset({"noise"}), f"with {labels['noise']}"),
            (frozenset({"noise", "optimizer"}), f"with {labels['noise']} and {labels['optimizer']}"),
            (frozenset(labels) - alone, "everything on"),
        )
    }
    known = {cell: heading for cell, heading in wanted.items() if (clipped["cell"] == cell).any()}
    lines: list[tuple[Estimate | str, ...]] = []
    for method, rows in clipped.groupby("method", sort=False):
        lines.append((str(method), *(_estimate(rows[rows["cell"] == cell].iloc[0]) for cell in known)))
    note = (
        f"{labels['rate']}, {labels['clip']}. Of the tokens with an advantage, counted in every pass over the whole "
        "run, the fraction whose ratio had left [0.8, 1.2] on the side where the clip holds it."
    )
    columns = [Column(heading, cell.replace("+", "_")) for cell, heading in known.items()]
    return Table("fraction of tokens that the clip held", ("", *columns), tuple(lines), note, key="clipped")


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
            heading(
                grid,
                "e  pairwise interactions at equal Pass@1 (nats), averaged over the settings of the other factors\n"
                "bold: the 95% interval excludes 0",
            )
        caption(
            drawn,
            "Exact policies; thin lines are seeds, intervals are 95% t over paired seeds. First in: the effect of a "
            "factor alone; last out: what is lost when it alone is switched off; Shapley: mean over all orders. Passes "
            "at full rate are compared with passes at ¼ rate, and the clip with passes at full rate without it.",
        )
    return drawn
