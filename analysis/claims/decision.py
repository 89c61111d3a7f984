"""What a decision about a claim is: a verdict and the effects that it follows from. Plain data, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["VERDICTS", "Decision", "Effect", "Verdict"]

Verdict = Literal["holds", "fails", "depends", "undecided"]
# The four verdicts, in the order in which tables list them.
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Effect:
    """One measured number of a decision.

    Attributes:
        label: What it is, in words that stand alone in a figure.
        value: The estimate; NaN where there is none.
        low: Lower end of its 95% interval; NaN where it has none.
        high: Upper end; NaN where it has none.
        unit: Such as nats; empty for a plain number.
        n: Independent units that the interval is over.
        over: What these units are: seeds, prompts, tokens, settings.
        condition: Regime, task and matching that it was measured in.
        null: The value that means "no effect".
        margin: The margin δ of the rule around `null`; None where the rule has none.
        kind: The kind of interval, as `docs/intervals.md` names it; "exact" for a number without sampling error.
        reason: Why it has no interval.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    n: int = 0
    over: str = "seeds"
    condition: str = ""
    null: float = 0.0
    margin: float | None = None
    kind: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that do not exist are null."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Effect:
        """The effect that `to_json` gave."""
        numbers = {name: math.nan if data[name] is None else data[name] for name in ("value", "low", "high", "null")}
        return cls(**{**data, **numbers})


@dataclass(frozen=True)
class Decision:
    """A verdict, and what it follows from.

    Attributes:
        verdict: holds, fails, depends or undecided.
        reason: One sentence that says why, with the numbers that matter.
        effects: What was measured, the most important first.
        depends_on: For "depends": what it depends on.
        missing: For "undecided": the power that was missing, or with what it could be decided.
        tables: Numbers for the figure of the entry: name -> column -> values.
    """

    verdict: Verdict
    reason: str
    effects: tuple[Effect, ...] = ()
    depends_on: str = ""
    missing: str = ""
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict == "depends" and not self.depends_on:
            raise ValueError("depends_on: a verdict that depends must say on what")
        if self.verdict == "undecided" and not self.missing:
            raise ValueError("missing: a verdict that is undecided must say what was missing")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        tables = {
            name: {column: [_plain(value) for value in values] for column, values in table.items()}
            for name, table in self.tables.items()
        }
        plain = {name: getattr(self, name) for name in ("verdict", "reason", "depends_on", "missing")}
        return plain | {"effects": [effect.to_json() for effect in self.effects], "tables": tables}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """The decision that `to_json` gave."""
        return cls(**{**data, "effects": tuple(Effect.from_json(effect) for effect in data["effects"])})


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
