"""The figures of the ledger, from decisions alone: all claims on a page, the effects of a family, one claim."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from .claim import FAMILIES, Claim, Effect
from .front_figure import front_figure
from .ledger import Entry
from .tables import NOT_YET, by_family, value_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["claim_figure", "family_figure", "ledger_figures", "page_figure"]

_MOST_EFFECTS = 4  # of a claim in the figure of its family; the figure of the claim has all of one unit
_TEXT_CHARACTERS = 68  # of an effect in words, beside its row on the page of all claims
_DECOMPOSITION = "S2"
_PAGE_NOTE = (
    "The first effect of each claim with its 95% interval. Each row has a scale of its own, so that rows are not to be "
    "compared in size; the grey band is the margin of the claim's rule. A verdict follows from all effects of a claim, "
    "not from the one that is drawn."
)
_EFFECTS_NOTE = (
    "Dots: estimates; bars: 95% intervals, of the kind that the ledger names for each; hollow: without an interval. "
    "Line: no effect; grey band: the margin of the rule."
)


def ledger_figures(claims: Sequence[Claim], entries: Sequence[Entry]) -> dict[str, Figure]:
    """file name -> figure of everything that was decided."""
    decided = {entry.id: entry for entry in entries}
    figures = {"ledger.png": page_figure(claims, entries)} if entries else {}
    for family in FAMILIES:
        chosen = [(claim, decided[claim.id]) for claim in claims if claim.family == family and claim.id in decided]
        if (figure := family_figure(chosen)) is not None:
            figures[f"ledger_{family}.png"] = figure
    if (entry := decided.get(_DECOMPOSITION)) is not None and "shares" in entry.decision.tables:
        figures[f"ledger_{_DECOMPOSITION}.png"] = front_figure(entry.decision.tables)
    return figures


def page_figure(claims: Sequence[Claim], entries: Sequence[Entry]) -> Figure:
    """One row a claim, by family: verdict and first effect."""
    import pandas as pd

    from ..plots.effect_forest import verdicts_figure

    decided = {entry.id: entry.decision for entry in entries}
    rows = []
    for claim in by_family(claims):
        decision = decided.get(claim.id)
        effect = decision.effects[0] if decision and decision.effects else Effect("", float("nan"))
        row = _row(effect) | {"claim": f"{claim.id}  {claim.title}", "group": claim.family, "text": _in_words(effect)}
        rows.append(row | {"verdict": NOT_YET if decision is None else str(decision.verdict)})
    return verdicts_figure(pd.DataFrame(rows), FAMILIES, note=_PAGE_NOTE)


def family_figure(decided: Sequence[tuple[Claim, Entry]]) -> Figure | None:
    """The effects of the claims of a family, the first ones of each; None where there is no effect."""
    from ..plots.effect_forest import effects_figure

    panels = [panel for claim, entry in decided if (panel := _panel(claim, entry, _MOST_EFFECTS)) is not None]
    return effects_figure(panels, note=_EFFECTS_NOTE) if panels else None


def claim_figure(claim: Claim, entry: Entry) -> Figure | None:
    """The figure of one claim: the decomposition has its own, of another all effects in the unit of the first."""
    from ..plots.effect_forest import effects_figure

    if claim.id == _DECOMPOSITION and "shares" in entry.decision.tables:
        return front_figure(entry.decision.tables)
    panel = _panel(claim, entry, None)
    return None if panel is None else effects_figure([panel], note=_EFFECTS_NOTE)


def _panel(claim: Claim, entry: Entry, most: int | None) -> tuple[str, str, str, pd.DataFrame] | None:
    import pandas as pd

    known = [effect for effect in entry.decision.effects if effect.value == effect.value]
    alike = [effect for effect in known if effect.unit == known[0].unit]
    if not alike:
        return None
    rows = pd.DataFrame([_row(effect) for effect in alike[:most]])
    left = len(known) - len(rows)
    unit = known[0].unit or "value"
    more = f"; {left} further {'effect is' if left == 1 else 'effects are'} in the ledger" if left else ""
    return f"{claim.id}  {claim.title}", str(entry.decision.verdict), unit + more, rows


def _row(effect: Effect) -> dict[str, Any]:
    margin = float("nan") if effect.margin is None else effect.margin
    numbers = {name: getattr(effect, name) for name in ("value", "low", "high", "null")}
    return {"label": _label(effect), **numbers, "margin": margin}


def _label(effect: Effect) -> str:
    """What was measured, with those parts of its condition that the label does not say already."""
    parts = [part for part in effect.condition.split(", ") if part and part not in effect.label]
    return f"{effect.label} ({', '.join(parts)})" if parts else effect.label


def _in_words(effect: Effect) -> str:
    if effect.value != effect.value:
        return ""
    unit = f" {effect.unit}" if effect.unit else ""
    return shorten(f"{value_text(effect)}{unit}: {_label(effect)}", _TEXT_CHARACTERS, placeholder=" …")
