"""How the fields of a recipe are declared: meaning, range and choices, and the parameters of objectives among them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar, cast

from ..objectives.entries import ENTRIES, PARAMETERS
from ..objectives.parameters import CORRECTIONS

__all__ = ["Table", "described", "recipe_field", "with_parameters"]

C = TypeVar("C")


class Table(dict[str, Any]):
    """The value of a field that takes any entries; it may stand in a frozen dataclass, and nothing changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


# Parameters of objectives that are part of every recipe's hash, set or not. A field that came later (`later`) counts
# only where it is set, so that the experiments of before keep their hashes.
_HASHED_UNSET = frozenset(
    {
        "advantage",
        "baseline",
        "beta",
        "clamp",
        "clip_high",
        "clip_low",
        "cov_high",
        "cov_low",
        "dual_clip",
        "epsilon",
        "floor",
        "form",
        "kappa",
        "lambda_",
        "negative_weight",
        "positive_weight",
        "prompt_weight",
        "rank_penalty",
        "ratio_floor",
        "share",
        "tau_neg",
        "tau_pos",
    }
)


def recipe_field(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
    key: str | None = None,
    aliases: dict[str, Any] | None = None,
    later: bool = False,
) -> Any:
    """A field with its meaning; `low` and `high` are inclusive bounds, `above` and `below` exclusive ones; `aliases`
    are other names of choices; `later` says that at its default it is not part of a recipe's hash."""
    meta = {
        "doc": doc,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "key": key,
        "aliases": aliases,
        "later": later or None,
    }
    return field(default=default, metadata={k: v for k, v in meta.items() if v is not None})


def described(cls: type[C]) -> type[C]:
    """Say in the docstring of a table what each of its fields means."""
    lines = [
        f"    {item.name}: {item.metadata['doc'] if item.metadata else f'the table [{item.name}].'}"
        for item in dataclasses.fields(cast(Any, cls))
    ]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])
    return cls


def _of_parameter(name: str) -> Any:
    """A parameter of some objectives as a field; unset is the objective's default."""
    parameter = PARAMETERS[name]
    owners = ", ".join(entry.name for entry in ENTRIES.values() if name in entry.defaults and entry.coupling != "pair")
    owners = owners or "every objective of tokens or responses"
    limits = (
        ("low", parameter.low),
        ("high", parameter.high),
        ("above", parameter.above),
        ("below", parameter.below),
    )
    bounds: dict[str, Any] = {key: value for key, value in limits if math.isfinite(value)}
    text = f"of {owners}: {parameter.doc}"
    return recipe_field(None, text, choices=parameter.choices or None, later=name not in _HASHED_UNSET, **bounds)


def with_parameters(before: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: a field for each parameter of an objective of tokens or responses that the class leaves out.

    They stand before the field `before`, so that a new objective needs no line here.
    """

    def insert(cls: type[C]) -> type[C]:
        fields = list(cls.__annotations__.items())
        place = [name for name, _ in fields].index(before)
        for name, parameter in PARAMETERS.items():
            owners = [entry for entry in ENTRIES.values() if name in entry.defaults or parameter in CORRECTIONS]
            if name not in cls.__annotations__ and any(entry.takes_corrections for entry in owners):
                kind = "str" if parameter.choices else "int" if parameter.whole else "float"
                fields.insert(place, (name, f"{kind} | None"))
                setattr(cls, name, _of_parameter(name))
                place += 1
        cls.__annotations__ = dict(fields)
        return cls

    return insert
