"""PSR, NSR, W-REINFORCE and REINFORCE, each in three forms, and the first three as their released code has them."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import FORMS, LAMBDA, Parameter
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "NAMES", "TITLE"]

TITLE = "Positive and negative samples"

_PAPER = "Zhu et al., arXiv 2506.01347"
_CODE = "released code, github.com/TianHongZXY/RLVR-Decomposed: verl's PPO loss, clip_ratio 0.2"
_FAMILY = {
    "psr": ("PSR", "r", "A = r: correct responses alone"),
    "nsr": ("NSR", "r-1", "A = r − 1: wrong responses alone"),
    "w-reinforce": ("W-REINFORCE", "lambda", "A = λ on correct, −1 on wrong"),
    "reinforce": ("REINFORCE", "2r-1", "A = ±1: rewards count 1 and −1"),
}
_FORM = {
    "ratio": (f"A·ρ{CLIPPED}", "the ratio of the released code, whose clip is not set here", OLD),
    "probability": (f"A·π_y{CLIPPED}", "Eq. 6", ("advantages",)),
    "log": ("A", "the score function", ("advantages",)),
}
_SAME = "on-policy, unclipped and with a fixed divisor its expected gradient is ∇p, as that of {other}"
_OTHER = {"psr": "nsr", "nsr": "psr"}
NAMES = tuple(_FAMILY)


def _note(family: str, form: str) -> str:
    parts = [_FAMILY[family][2]]
    if form == "probability":
        parts.append("its expected gradient is not that of the log form")
    elif family in _OTHER:
        parts.append(_SAME.format(other=f"{_OTHER[family]}-{form}"))
    if form == "ratio" and family != "reinforce":
        parts.append(f"the released code clips at 0.2 on both sides, as {family}-released does")
    return "; ".join(parts)


def _own(family: str) -> tuple[Parameter, ...]:
    return (LAMBDA.with_(required=True),) if family == "w-reinforce" else ()


def _entries() -> list[Entry]:
    entries = []
    for family, (title, value, _) in _FAMILY.items():
        for form in FORMS:
            weight, source, needs = _FORM[form]
            if family == "w-reinforce" and form != "log":
                source = f"Eq. 9, {source}"
            clipped = () if form == "log" else clips()
            label = title if form == "ratio" else f"{title} {form}"
            entries.append(
                Entry(
                    name=f"{family}-{form}",
                    title=label,
                    weight=weight,
                    source=f"{_PAPER}: {source}",
                    parameters=(*_own(family), *advantage(), *clipped),
                    value=value,
                    needs=needs,
                    form=form,
                    note=_note(family, form),
                )
            )
    return entries


def _released() -> list[Entry]:
    """The three of the paper with the clip of their code; psr and nsr there train on their own rows alone."""
    rows = "set update.rows = drop: its code leaves the other rows out before it cuts minibatches"
    return [
        Entry(
            name=f"{family}-released",
            title=f"{_FAMILY[family][0]} (released code)",
            weight=f"A·ρ{CLIPPED}",
            source=f"{_PAPER}: {_CODE}",
            parameters=(*_own(family), *advantage(), *clips(0.2, 0.2)),
            value=_FAMILY[family][1],
            needs=OLD,
            form="ratio",
            note="; ".join([_FAMILY[family][2], *([] if family == "w-reinforce" else [rows])]),
        )
        for family in ("psr", "nsr", "w-reinforce")
    ]


ENTRIES = (*_entries(), *_released())
