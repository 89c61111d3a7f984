"""The ledger as tables: what there is and what it costs, and what came out."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.tables import Cell, Table
from ..recipes.cost import duration_text
from .claim import FAMILIES, VERDICTS, Claim
from .ledger import Entry
from .study import planned_runs

__all__ = ["claims_table", "verdict_table"]


def claims_table(claims: Sequence[Claim]) -> Table:
    """Every claim with its place, the training runs that it needs and its cost in core time."""
    rows = []
    for claim in claims:
        seconds = claim.seconds + claim.later_seconds + sum(study.seconds for study in claim.studies)
        count = str(len(planned_runs(claim.studies)) or "none") + (" and more" if claim.later else "")
        rows.append((claim.id, claim.title, claim.source, count, duration_text(seconds)))
    total = planned_runs(study for claim in claims for study in claim.studies)
    note = (
        f"Training runs are shared: {len(total)} runs serve all claims. Costs are rough estimates in time of one core."
    )
    return Table("Claims", ("claim", "in short", "source", "training runs", "cost"), tuple(rows), note, "claims")


def verdict_table(claims: Sequence[Claim], entries: Sequence[Entry]) -> Table:
    """The verdict of every entry with its first effect."""
    by_id = {claim.id: claim for claim in claims}
    rows = []
    for entry in entries:
        claim, decision = by_id[entry.id], entry.decision
        effect = decision.effects[0] if decision.effects else None
        measured = "–" if effect is None else str(Cell(effect.value, effect.low, effect.high))
        what = "" if effect is None else effect.label
        rows.append((claim.id, claim.title, decision.verdict, what, measured))
    counts = ", ".join(
        f"{sum(entry.decision.verdict == verdict for entry in entries)} {verdict}" for verdict in VERDICTS
    )
    families = ", ".join(FAMILIES[name] for name in dict.fromkeys(by_id[entry.id].family for entry in entries))
    note = f"{counts}. {families}. Intervals are 95%; --show ID has all numbers of a claim."
    return Table("Ledger", ("claim", "in short", "verdict", "first effect", "value"), tuple(rows), note, "ledger")
