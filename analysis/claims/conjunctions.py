"""Claims that say several things at once: each is one number with a bound, and the claim holds where all of them do.

A claim such as "NSR is at or above its base at every k" is a conjunction. It is shown when every part is shown, each
by its own 95% interval: no correction is needed, since one part that is not shown keeps the claim from holding. It is
refuted when one part is, and that part is found among m: so it is refuted only by an interval at the simultaneous level
1 − 0.05/m (Bonferroni, the first step of Holm's method).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError
from ..evaluation import interval
from ..evaluation.interval_kinds import LEAST_CROSSED_SEEDS, Kind
from ..evaluation.intervals import Interval, no_interval
from ..evaluation.metrics import evals_of
from ..evaluation.sampling_params import SamplingParams
from .claim import Decision, Effect
from .comparisons import Comparison
from .conditions import combined
from .evidence import Evidence, Methods
from .rules import missing_power, shown
from .study import Study

__all__ = [
    "Part",
    "SeedValues",
    "all_of",
    "by_condition",
    "counting_diverged",
    "joined_tables",
    "judged",
    "require",
    "temperatures",
    "together",
]

_ERROR = 0.05  # of the 95% intervals, shared by the parts where one of them may refute


class Measured(Protocol):
    """What a part is about: a comparison over seeds and prompts, or one number a seed."""

    @property
    def left_out(self) -> Mapping[int, str]: ...

    def effect(self, *, condition: str, unit: str = "", null: float = 0.0, margin: float | None = None) -> Effect: ...


@dataclass(frozen=True)
class SeedValues:
    """One number for each seed, such as a ratio of training rollouts, with Student's interval over the seeds.

    Attributes:
        label: What it is.
        at: What is equal, in words.
        seeds: The seeds that have a value.
        values: (seeds,).
        left_out: Seeds without one, with the reason.
    """

    label: str
    at: str
    seeds: tuple[int, ...]
    values: np.ndarray
    left_out: Mapping[int, str]

    def interval(self, level: float = 0.95) -> Interval:
        """Over the seeds."""
        return interval(self.values, over="seeds", level=level)

    def effect(self, *, condition: str, unit: str = "", null: float = 0.0, margin: float | None = None) -> Effect:
        """For a decision and its figure. As with a mean over seeds and prompts, four seeds are needed."""
        n = len(self.seeds)
        mean = float(self.values.mean()) if n else math.nan
        effect = Effect(f"{self.label}, {self.at}", mean, unit=unit, n=n, condition=condition, null=null, margin=margin)
        if n < LEAST_CROSSED_SEEDS:
            lacking = [f"fewer than {LEAST_CROSSED_SEEDS} seeds ({n})", *dict.fromkeys(self.left_out.values())]
            return replace(effect, margin=None, reason="; ".join(lacking))
        found = self.interval()
        return replace(effect, low=found.low, high=found.high, kind=str(found.kind))


@dataclass(frozen=True)
class Part:
    """One thing that a claim says: a number lies above a bound (or below it).

    Attributes:
        says: What the claim says here, in words, such as "NSR above PSR".
        measured: The number.
        bound: What it is held against.
        above: Whether the claim says above; else below.
        unit: Of the number.
        shown: Whether the effect is listed; the table `parts` has all of them.
    """

    says: str
    measured: Measured
    bound: float
    above: bool = True
    unit: str = ""
    shown: bool = True

    def effect(self, condition: str) -> Effect:
        """The number with its 95% interval."""
        return self.measured.effect(condition=condition, unit=self.unit, margin=abs(self.bound) or None)

    def verdict(self, effect: Effect, wide: Interval) -> str:
        """holds by the 95% interval, fails by the simultaneous one, else undecided."""
        if not np.isfinite([effect.low, effect.high]).all():
            return "undecided"
        if self.clearance(effect) > 0:
            return "holds"
        refuted = wide.high < self.bound if self.above else wide.low > self.bound
        return "fails" if refuted else "undecided"

    def clearance(self, effect: Effect) -> float:
        """How far the 95% interval lies from the bound, on the side that the claim says."""
        return effect.low - self.bound if self.above else self.bound - effect.high

    def interval(self, level: float) -> Interval:
        """Of the given level; its ends are NaN where there is none."""
        if isinstance(self.measured, SeedValues):
            if len(self.measured.seeds) >= LEAST_CROSSED_SEEDS:
                return self.measured.interval(level)
        elif isinstance(self.measured, Comparison) and (mean := self.measured.mean) is not None:
            return mean.interval(level)
        return no_interval(math.nan, "too few seeds", Kind.SEED_MEAN)


def all_of(parts: Sequence[Part], condition: str = "") -> Decision:
    """Holds where all parts do; fails where one of them lies on the wrong side of its bound by the simultaneous level.

    Args:
        parts: At least one.
        condition: Regime and task, for the effects.

    Example:
        >>> value = SeedValues("gain", "at the end", (0, 1, 2, 3), np.array([0.2, 0.21, 0.19, 0.2]), {})
        >>> all_of([Part("a gain", value, 0.1), Part("below a half", value, 0.5, above=False)]).verdict
        'holds'
    """
    effects = [part.effect(condition) for part in parts]
    level = 1 - _ERROR / len(parts)
    wide = [part.interval(level) for part in parts]
    verdicts = [part.verdict(effect, found) for part, effect, found in zip(parts, effects, wide, strict=True)]
    by_verdict: dict[str, list[int]] = {name: [] for name in ("fails", "undecided", "holds")}
    for index, verdict in enumerate(verdicts):
        by_verdict[verdict].append(index)
    listed = tuple(effect for part, effect in zip(parts, effects, strict=True) if part.shown)
    tables = {"parts": _parts_table(parts, effects, wide, verdicts)}

    def told(indices: Sequence[int]) -> str:
        return "; ".join(
            f"{shown(replace(effects[i], condition=''))}, where the claim says {parts[i].says} "
            f"({'above' if parts[i].above else 'below'} {parts[i].bound:.3g})"
            for i in indices
        )

    if by_verdict["fails"]:
        first, *others = by_verdict["fails"]
        more = _told_besides(len(others), len(parts), "fails", "fail")
        return Decision("fails", f"{told([first])}.{more}", listed, tables=tables)
    if by_verdict["undecided"]:
        first, *others = by_verdict["undecided"]
        effect, part = effects[first], parts[first]
        comparison = part.measured if isinstance(part.measured, Comparison) else None
        beyond = effect.high < part.bound if part.above else effect.low > part.bound
        if beyond:  # by the 95% interval alone
            missing = f"the simultaneous interval of all {len(parts)} parts still contains {part.bound:.3g}; more seeds"
        elif np.isfinite(effect.low):
            missing = missing_power(effect, part.bound, comparison)
        else:
            missing = effect.reason or "it has no interval"
        more = _told_besides(len(others), len(parts), "is open", "are open")
        return Decision(
            "undecided", f"{told([first])}.{more}", listed, missing=f"{part.says}: {missing}", tables=tables
        )
    if len(parts) == 1:
        return Decision("holds", f"{told([0])}.", listed, tables=tables)
    nearest = min(by_verdict["holds"], key=lambda i: parts[i].clearance(effects[i]))
    return Decision(
        "holds", f"All {len(parts)} parts; the one nearest its bound: {told([nearest])}.", listed, tables=tables
    )


def by_condition(
    evidence: Evidence,
    studies: Sequence[Study],
    decide: Callable[[Methods, str], Mapping[str, Decision]],
    *watched: str,
) -> Decision:
    """The claim in each study, put together; runs of the `watched` methods that diverged count against the claim.

    Args:
        evidence: Of the ledger.
        studies: The studies.
        decide: Of the runs of a study and its name: condition -> decision.
        watched: Methods of which the claim says something good.
    """
    parts: dict[str, Decision] = {}
    for study in studies:
        diverged = evidence.diverged(study)
        for condition, found in decide(evidence.methods(study), study.name).items():
            for method in watched:
                found = counting_diverged(found, method, len(diverged.get(method, ())), study.seeds)
            parts[condition] = found
    return together(parts)


def together(parts: Mapping[str, Decision]) -> Decision:
    """`combined`, with one table of each name over all conditions.

    Args:
        parts: condition -> its decision.
    """
    found = combined(parts)
    return replace(found, tables=joined_tables(parts) | {"conditions": found.tables["conditions"]})


def judged(methods: Methods, decide: Callable[[Methods, str], Mapping[str, Decision]], *needed: str) -> Decision:
    """The claim on a user's runs, in the conditions that `decide` knows.

    Raises:
        UsageError: one of the `needed` methods has no run.
    """
    require(methods, needed)
    return together(decide(methods, "your runs"))


def require(methods: Methods, names: Sequence[str]) -> None:
    """UsageError where a method has no run."""
    if missing := [name for name in names if not methods.get(name)]:
        raise UsageError(
            f"methods: expected finished runs labelled {', '.join(names)}, got none of {', '.join(missing)}; train "
            "them from the same base with the same seeds, or set `label` in the recipe"
        )


def temperatures(methods: Methods, wanted: Sequence[float]) -> list[float]:
    """Those of the wanted temperatures at which all runs were evaluated.

    Raises:
        UsageError: there is none.
    """
    found = []
    for runs in methods.values():
        for run in runs.values():
            evals = evals_of(run)
            found.append({p.temperature for p in SamplingParams.all_in(evals) if not p.truncation})
    common = set.intersection(*found) if found else set()
    if kept := [temperature for temperature in wanted if temperature in common]:
        return kept
    raise UsageError(
        f"eval.temperatures: expected {' or '.join(f'{t:g}' for t in wanted)} in all runs, without truncation, "
        f"got {', '.join(f'{t:g}' for t in sorted(common)) or 'none in common'}; evaluate there"
    )


def counting_diverged(decision: Decision, method: str, diverged: int, seeds: int) -> Decision:
    """What is left of a decision when runs of a method that the claim speaks well of diverged.

    Means are over the runs that did not diverge. A quarter of the seeds or more: the claim fails there. Fewer: what
    held is undecided, as the runs that are left are the better ones.
    """
    if not diverged:
        return decision
    text = f"{diverged} of {seeds} runs of {method} diverged. {decision.reason}"
    if 4 * diverged >= seeds:
        return replace(decision, verdict="fails", reason=text, missing="", depends_on="")
    if decision.verdict != "holds":
        return replace(decision, reason=text)
    return replace(decision, verdict="undecided", reason=text, missing=f"runs of {method} that do not diverge")


def joined_tables(parts: Mapping[str, Decision]) -> dict[str, dict[str, list[Any]]]:
    """Tables of the same name from several conditions as one, with the column `condition`."""
    joined: dict[str, dict[str, list[Any]]] = {}
    for condition, part in parts.items():
        for name, columns in part.tables.items():
            rows = len(next(iter(columns.values()), ()))
            table = joined.setdefault(name, {column: [] for column in ("condition", *columns)})
            if set(table) != {"condition", *columns}:
                raise ValueError(f"tables: {name} has other columns in {condition} than before")
            table["condition"] += [condition] * rows
            for column, values in columns.items():
                table[column] += list(values)
    return joined


def _told_besides(others: int, parts: int, one: str, many: str) -> str:
    return f" {others} more of {parts} parts {one if others == 1 else many}." if others else ""


def _parts_table(
    parts: Sequence[Part], effects: Sequence[Effect], wide: Sequence[Interval], verdicts: Sequence[str]
) -> dict[str, list[Any]]:
    return {
        "says": [part.says for part in parts],
        "measured": [effect.label for effect in effects],
        "value": [effect.value for effect in effects],
        "low": [effect.low for effect in effects],
        "high": [effect.high for effect in effects],
        "simultaneous_low": [found.low for found in wide],
        "simultaneous_high": [found.high for found in wide],
        "unit": [part.unit for part in parts],
        "bound": [part.bound for part in parts],
        "above": [part.above for part in parts],
        "verdict": list(verdicts),
    }
