"""The page of one entry, as text: what is claimed, how it is decided, what came out."""

from __future__ import annotations

from ..common.tables import Cell, Table
from .claim import Claim, Decision
from .conditions import FEW
from .ledger import Entry

__all__ = ["claim_page", "effects_table"]


def claim_page(claim: Claim, entry: Entry | None, origin: str, *, level: int = 1) -> str:
    """The whole entry in Markdown.

    Args:
        claim: The claim.
        entry: Its decision; None where it was not decided yet.
        origin: Where the decision comes from.
        level: Of the heading.
    """
    parts = [
        f"{'#' * level} {claim.id}: {claim.title}",
        claim.statement,
        f"**Source.** {_ended(claim.source)}",
        f"**Hypothesis.** {claim.hypothesis}",
        f"**Statistic.** {claim.statistic}",
        f"**Margin.** {_ended(claim.margin)}",
        f"**Rule.** {claim.rule}",
        f"**Conditions.** {claim.conditions}",
        f"**If it holds.** {claim.practice}",
    ]
    if entry is None:
        parts.append(f"**Verdict: not yet decided.** `python -m analysis.claims --run {claim.id}` decides it.")
        return "\n\n".join(parts)
    decision = entry.decision
    parts.append(f"**Verdict: {decision.verdict}.**")
    parts.append(decision.reason)
    if decision.depends_on:
        parts.append(f"**It depends on.** {_ended(decision.depends_on)}")
    if decision.missing:
        parts.append(f"**What was missing.** {_ended(decision.missing)}")
    if len(decision.tables.get("conditions", {}).get("where", ())) > FEW:
        parts.append(_conditions_table(decision).to_markdown().partition("\n\n")[2].strip())
    if decision.effects:
        parts.append(effects_table(decision).to_markdown().partition("\n\n")[2].strip())
    if entry.diverged:
        parts.append(f"**Diverged runs.** {_diverged(entry)}.")
    rules = entry.made_with["commit of the rules"]
    parts.append(f"Decided by the rules of commit {rules[:12]}{'+' if rules.endswith('+') else ''}; {origin}.")
    return "\n\n".join(parts)


def effects_table(decision: Decision) -> Table:
    """Every effect with its interval."""
    rows = tuple(
        (
            effect.label,
            effect.condition or "–",
            Cell(effect.value, effect.low, effect.high, kind=effect.kind, reason=effect.reason),
            effect.unit or "–",
            f"{effect.n} {effect.over}" if effect.n else "exact",
        )
        for effect in decision.effects
    )
    return Table("Effects", ("effect", "condition", "value", "unit", "over"), rows, key="effects")


def _conditions_table(decision: Decision) -> Table:
    """The verdict in every condition."""
    found = decision.tables["conditions"]
    rows = tuple(
        (where, verdict, missing or "–")
        for where, verdict, missing in zip(found["where"], found["verdict"], found["missing"], strict=True)
    )
    return Table("Conditions", ("condition", "verdict", "what was missing"), rows, key="conditions")


def _diverged(entry: Entry) -> str:
    return "; ".join(
        f"{study}: {method} seeds {', '.join(map(str, seeds))}"
        for study, found in entry.diverged.items()
        for method, seeds in found.items()
    )


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
