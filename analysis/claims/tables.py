"""The ledger as tables: what there is and what it costs, and what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..common.tables import Cell, Table
from ..recipes.cost import duration_text
from .claim import FAMILIES, VERDICTS, Claim, Effect
from .ledger import Entry
from .study import planned_runs

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["NOT_YET", "claim_seconds", "claims_table", "for_terminal", "value_text", "verdict_table"]

NOT_YET = "not yet"  # in place of the verdict of a claim that was not decided
_FAMILY = "family"
_LEAST_SHOWN = 5e-4


def claims_table(claims: Sequence[Claim], verdicts: Mapping[str, str] | None = None) -> Table:
    """Every claim with its verdict, the training runs that it needs and its cost in core time.

    Args:
        claims: The claims.
        verdicts: id -> verdict of those that were decided.
    """
    verdicts = verdicts or {}
    rows = []
    for claim in by_family(claims):
        count = str(len(planned_runs(claim.studies)) or "none") + ("+" if claim.later else "")
        cost = duration_text(claim_seconds(claim)).removeprefix("about ")
        rows.append((claim.id, claim.title, verdicts.get(claim.id, NOT_YET), count, cost, FAMILIES[claim.family]))
    total = len(planned_runs(study for claim in claims for study in claim.studies))
    note = (
        f"Training runs are shared: {total} serve all of these claims. A + stands for further runs, which are chosen "
        "from what was found before. Costs are rough estimates in time of one core."
    )
    columns = ("claim", "in short", "verdict", "runs", "cost", _FAMILY)
    return Table("Claims", columns, tuple(rows), note, "claims")


def verdict_table(claims: Sequence[Claim], entries: Sequence[Entry]) -> Table:
    """The verdict of every claim with its first effect; a claim without an entry is not yet decided."""
    decisions = {entry.id: entry.decision for entry in entries}
    rows = []
    for claim in by_family(claims):
        decision = decisions.get(claim.id)
        effect = decision.effects[0] if decision and decision.effects else None
        measured = "–" if effect is None else value_text(effect)
        what = "–" if effect is None else effect.label
        verdict = NOT_YET if decision is None else decision.verdict
        rows.append((claim.id, claim.title, verdict, what, measured, FAMILIES[claim.family]))
    note = f"{counts(entries, claims)}. Intervals are 95%; --show ID has all numbers of a claim."
    columns = ("claim", "in short", "verdict", "first effect", "value", _FAMILY)
    return Table("Ledger", columns, tuple(rows), note, "ledger")


def value_text(effect: Effect) -> str:
    """The value with its interval; a value that decimals would show as 0 by its power of ten.

    Example:
        >>> value_text(Effect("gap", 0.1, 0.05, 0.15)), value_text(Effect("difference", 3.2e-10))
        ('0.10 ±.05', '3.2e-10')
    """
    if 0 < abs(effect.value) < _LEAST_SHOWN:
        return f"{effect.value:.1e}"
    return str(Cell(effect.value, effect.low, effect.high))


def counts(entries: Sequence[Entry], claims: Sequence[Claim]) -> str:
    """How many entries have each verdict, and how many claims none.

    Example:
        >>> counts([], [])
        'no claim'
    """
    found = {verdict: sum(entry.decision.verdict == verdict for entry in entries) for verdict in VERDICTS}
    found_text = [f"{count} {verdict}" for verdict, count in found.items() if count]
    left = len({claim.id for claim in claims} - {entry.id for entry in entries})
    return ", ".join([*found_text, *([f"{left} not yet decided"] if left else [])]) or "no claim"


def by_family(claims: Sequence[Claim]) -> list[Claim]:
    """The claims, those of a family together, families and claims in their order."""
    return [claim for family in FAMILIES for claim in claims if claim.family == family]


def claim_seconds(claim: Claim, trained: Collection[str] = ()) -> float:
    """About how many core seconds a claim costs.

    Args:
        claim: The claim.
        trained: run_ids of runs that cost nothing, as they were trained before.
    """
    from ..recipes.cost import estimated_seconds

    left = [run.config for run_id, run in planned_runs(claim.studies).items() if run_id not in trained]
    runs = estimated_seconds(left, at_a_time=1) or 0.0 if left else 0.0
    return claim.seconds + claim.later_seconds + runs


def for_terminal(table: Table) -> RichTable:
    """A table of this module for a terminal: its last column, the family, heads groups of rows; texts stand left."""
    from rich import box
    from rich.table import Table as RichTable

    headings, *rows = table.texts()
    shown = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        caption=table.full_note or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    free = ("in short", "first effect")  # what may be broken into lines
    numbers = ("runs", "cost")
    for heading in headings[:-1]:
        justify = "right" if heading in numbers else "left"
        shown.add_column(heading, justify=justify, no_wrap=heading not in free)  # type: ignore[arg-type]
    family = ""
    for *row, name in rows:
        if name != family:
            if family:
                shown.add_section()
            shown.add_row("", f"[bold]{name}[/]", *[""] * (len(row) - 2))
            family = name
        shown.add_row(*row)
    return shown
