"""PSR, NSR, W-REINFORCE and REINFORCE, each in three forms."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import FORMS, LAMBDA
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "NAMES", "TITLE"]

TITLE = "Positive and negative samples"

_PAPER = "Zhu et al., arXiv 2506.01347"
_FAMILY = {
    "psr": ("PSR", "r", "A = r: correct responses alone"),
    "nsr": ("NSR", "r-1", "A = r − 1: wrong responses alone"),
    "w-reinforce": ("W-REINFORCE", "lambda", "A = λ on correct, −1 on wrong"),
    "reinforce": ("REINFORCE", "2r-1", "A = ±1"),
}
_FORM = {
    "ratio": (f"A·ρ{CLIPPED}", "released code (a PPO loss)", OLD),
    "probability": (f"A·π_y{CLIPPED}", "Eq. 6", ("advantages",)),
    "log": ("A", "the score function", ("advantages",)),
}
NAMES = tuple(_FAMILY)


def _entries() -> list[Entry]:
    entries = []
    for family, (title, value, note) in _FAMILY.items():
        for form in FORMS:
            weight, source, needs = _FORM[form]
            if family == "w-reinforce" and form != "log":
                source = f"Eq. 9, {source}"
            own = (LAMBDA.with_(required=True),) if family == "w-reinforce" else ()
            clipped = () if form == "log" else clips()
            label = title if form == "ratio" else f"{title} {form}"
            entries.append(
                Entry(
                    name=f"{family}-{form}",
                    title=label,
                    weight=weight,
                    source=f"{_PAPER}: {source}",
                    parameters=(*own, *advantage(), *clipped),
                    value=value,
                    needs=needs,
                    form=form,
                    note=note,
                )
            )
    return entries


ENTRIES = tuple(_entries())
