"""Tables of predictions beside what updates did: the laws of single tokens, and the first order of the whole step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from ..common.tables import Cell, Column, Table
from ..evaluation import interval
from .prediction_curves import early_and_late, median_relative_error, unexplained_between

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["first_order_table", "law_table"]

# column of `Run.flows` and `Run.prediction_summary` -> (key, heading)
_QUANTITIES = {"log_prob": ("log_prob", "log π(y)"), "entropy": ("entropy", "entropy")}
_LAW_NOTE = (
    "Contexts of the batches whose token had a weight, in rewarded and unrewarded responses. Law: first-order effect "
    "of the token's own gradient on its own context. same sign: fraction of contexts that moved the way the law says "
    "(0.5 is chance, since the rest of the batch moves a context more than its own token does). rank ρ: "
    "Spearman's rank correlation over contexts. With several seeds: contexts of all of them, and means over the seeds, "
    "± half of a 95% interval (t)."
)
_FIRST_ORDER_NOTE = (
    "Change of one update predicted by the JVP, the first order in the whole parameter step. median error: median over "
    "contexts of |change − prediction| / |change|. 1 − R²: fraction of the variance of the changes that the prediction "
    "leaves unexplained; single contexts with large steps dominate it. own batch: contexts of the update's own "
    "batch; held out: fixed contexts of other prompts. early, late: first and last third of the updates."
)


def law_table(runs: Mapping[str, Run]) -> Table | None:
    """How often single tokens' laws had the right sign and order; None where no contexts were followed."""
    summaries = [run.prediction_summary().assign(label=run.label) for run in runs.values() if run.rows("flows")]
    rows: list[tuple[Cell | str, ...]] = []
    if summaries:
        known = pd.concat(summaries)
        known = known[known["weights"] == "nonzero"]
        for (label, sign), part in known.groupby(["label", "sign"], sort=False):
            chosen = [part[part["quantity"] == quantity] for quantity in _QUANTITIES]
            cells = [_mean(by_seed[column]) for by_seed in chosen for column in ("law_sign_agreement", "law_spearman")]
            contexts = Cell(float(chosen[0]["law_n"].sum()))
            rows.append((f"{label}, {'rewarded' if sign == 1 else 'unrewarded'}", contexts, *cells))
    if not rows:
        return None
    columns = [Column("", "method"), Column("contexts", "contexts")]
    for key, name in _QUANTITIES.values():
        columns.append(Column(f"{name}: same sign", f"{key}_same_sign"))
        columns.append(Column(f"{name}: rank ρ", f"{key}_rank_correlation"))
    return Table("the law of single tokens against what happened", tuple(columns), tuple(rows), _LAW_NOTE, "law")


def _mean(values: pd.Series) -> Cell:
    """The value of one run, or the mean over the seeds of a method with its interval (Student's t)."""
    known = values.dropna()
    if len(known) < 2:
        return Cell(float(known.iloc[0]) if len(known) else math.nan, digits=2)
    return Cell.of(interval(known, over="seeds"))


def first_order_table(runs: Mapping[str, Run]) -> Table | None:
    """How much of the realised changes the JVP leaves unexplained; None where no update recorded one."""
    parts = [run.flows().assign(label=run.label, seed=run.seed) for run in runs.values() if run.rows("flows")]
    if not parts or all(flows["jvp_dlog_prob"].isna().all() for flows in parts):
        return None
    rows: list[tuple[Cell | str, ...]] = []
    for (label, kind), flows in pd.concat(parts).groupby(["label", "kind"], sort=False):
        cells = []
        for quantity in ("dlog_prob", "dentropy"):
            cells.append(Cell(median_relative_error(flows, quantity), digits=3))
            cells += [Cell(unexplained_between(part, quantity).estimate, digits=4) for part in early_and_late(flows)]
        rows.append((f"{label}, {'held out' if kind == 'panel' else 'own batch'}", *cells))
    columns = [Column("", "method")]
    for key, name in _QUANTITIES.values():
        columns.append(Column(f"{name}: median error", f"{key}_median_error"))
        columns += [Column(f"{name}: 1 − R², {when}", f"{key}_unexplained_{when}") for when in ("early", "late")]
    return Table(
        "what the first order leaves unexplained",
        tuple(columns),
        tuple(rows),
        _FIRST_ORDER_NOTE,
        "first_order",
    )
