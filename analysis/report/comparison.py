"""Methods compared on the same prompts: what the tables, the verdict and the figures of a comparison read, mean once.

At equal steps the methods have travelled different distances, so comparisons are made at equal steps and at equal
Pass@1. The levels of Pass@1 follow the rule of `analysis.evaluation.matched`.

Differences between two methods are paired over the same prompts. With one seed their interval is over prompts, with
several seeds it is Student's over the differences of runs with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..common.tables import Cell
from ..evaluation import Matched, SamplingParams, curves, get_metric, interval, matched
from ..evaluation.interval_kinds import Kind
from ..evaluation.matching import FRACTIONS
from .curves import samples_per_prompt
from .rollout_columns import RolloutColumn, rollout_columns

if TYPE_CHECKING:
    from ..evaluation.matching import At
    from ..records import Run

__all__ = ["EFFECTIVE", "ENTROPY", "PASS_AT_1", "Comparison", "Matching", "MetricColumn", "comparisons", "over_seeds"]

KS = (1, 8, 64, 256)
KS_COLD = (1, 8)  # at the second temperature
PASS_AT_1, ENTROPY, EFFECTIVE = "pass_at_1", "entropy_nats", "effective_solutions"
_MODE = (  # of tasks that name a mode
    ("mode_mass", "mass on the mode"),
    ("mode_p", "Pass@1 in the mode"),
    ("outside_p", "Pass@1 outside it"),
)


class MetricColumn(NamedTuple):
    """One metric of `evals` at one temperature, as a column of a table."""

    key: str
    heading: str
    metric: str
    temperature: float


@dataclass(frozen=True)
class Matching:
    """Runs matched at levels of one axis, for metrics at several temperatures."""

    parts: Mapping[float, Matched]  # by temperature
    _differences: dict[tuple[tuple[tuple[str, str], ...], float], pd.DataFrame] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tables of the parts below one another."""
        return pd.concat([part.table for part in self.parts.values()])

    @property
    def levels(self) -> list[float]:
        return sorted(self.table["level"].unique())

    @property
    def prompts(self) -> int:
        """How many test prompts every value is a mean over."""
        return len(next(iter(self.parts.values())).prompt_ids)

    def at(self, level: float) -> pd.DataFrame:
        return self.table[self.table["level"] == level]

    def difference(self, pairs: Sequence[tuple[str, str]], level: float, column: MetricColumn) -> Cell:
        """First − second, paired over prompts; the mean over several pairs, with its interval over these."""
        key = (tuple(pairs), column.temperature)
        if key not in self._differences:
            part = self.parts[column.temperature]
            self._differences[key] = part.difference(*pairs[0]) if len(pairs) == 1 else part.paired_difference(pairs)
        rows = self._differences[key]
        return _cell(rows[(rows["level"] == level) & (rows["metric"] == column.metric)].iloc[0])


@dataclass(frozen=True)
class Comparison:
    """Runs that were evaluated with the same truncation."""

    runs: Mapping[str, Run]  # by run_id
    evals: Mapping[str, pd.DataFrame]  # their evaluations, by run_id
    params: SamplingParams  # of the main columns
    metrics: tuple[MetricColumn, ...]
    rollouts: tuple[RolloutColumn, ...]

    @classmethod
    def of(cls, runs: Mapping[str, Run], evals: Mapping[str, pd.DataFrame]) -> Comparison:
        """What can be compared of these runs."""
        params = (SamplingParams.all_in(next(iter(evals.values()))) or [SamplingParams()])[0]
        return cls(runs, evals, params, _metric_columns(evals), tuple(rollout_columns(runs)))

    @cached_property
    def members(self) -> dict[str, dict[int | None, str]]:
        """label -> its runs, by seed."""
        members: dict[str, dict[int | None, str]] = {}
        for run_id, run in self.runs.items():
            members.setdefault(run.label, {})[run.seed] = run_id
        return members

    @property
    def seeds(self) -> int:
        """The most seeds that a method has."""
        return max(map(len, self.members.values()))

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The methods whose differences are shown: NSR − PSR where both are there, else each one minus the first."""
        labels = list(self.members)
        if {"PSR", "NSR"} <= set(labels):
            return [("NSR", "PSR")]
        return [(label, labels[0]) for label in labels[1:]]

    @cached_property
    def samples(self) -> int | None:
        """How many samples Pass@k is estimated from; None where success was enumerated."""
        return samples_per_prompt(self.evals.values())

    def metric(self, key: str) -> MetricColumn | None:
        """The column of this key; None where the runs do not have it."""
        return next((column for column in self.metrics if column.key == key), None)

    def at_ends(self) -> Comparison:
        """With the first and the last evaluation alone, where all runs have the same: more prompts were evaluated at
        these two than in between."""
        ends = {(rows["step"].min(), rows["step"].max()) for rows in self.evals.values()}
        if len(ends) > 1:
            return self
        steps = next(iter(ends))
        return replace(self, evals={run_id: rows[rows["step"].isin(steps)] for run_id, rows in self.evals.items()})

    @property
    def last_step(self) -> float:
        """The last step that every run has reached."""
        return min(float(rows["step"].max()) for rows in self.evals.values())

    def match(
        self,
        at: At,
        levels: Sequence[float] | None = None,
        metrics: Sequence[MetricColumn] | None = None,
        fractions: Sequence[float] = FRACTIONS,
    ) -> Matching:
        """`matched` for the metrics of the tables, or for some of them.

        Levels of Pass@1 are, unless given, these fractions of the range of the runs that rise above where every run
        starts.

        Raises:
            EmptyRangeError: no level lies on the curves of all these.
        """
        by_temperature: dict[float, list[str]] = {}
        for column in self.metrics if metrics is None else metrics:
            by_temperature.setdefault(column.temperature, []).append(column.metric)
        return Matching(
            {
                temperature: matched(
                    self.evals,
                    names,
                    at,
                    levels=levels,
                    fractions=fractions,
                    levels_from=self._rising() if at == "pass@1" and levels is None else None,
                    temperature=temperature,
                    match_temperature=self.params.temperature,
                    top_k=self.params.top_k,
                    top_p=self.params.top_p,
                    estimated=True,
                )
                for temperature, names in by_temperature.items()
            }
        )

    def levels(self) -> list[float]:
        """Levels of Pass@1 that can be compared, as `match` chooses them.

        Raises:
            EmptyRangeError: there are none.
        """
        return self.match("pass@1", metrics=self.metrics[:1]).levels

    def _rising(self) -> list[str]:
        curve = {}
        for run_id, rows in self.evals.items():
            known = curves(rows)
            known = known[(known["split"] == "validation") & (known["temperature"] == self.params.temperature)]
            curve[run_id] = known["pass@1"].to_numpy()
        start = max(values[0] for values in curve.values())
        return [run_id for run_id, values in curve.items() if values.max() > start] or list(self.evals)

    def value(self, matching: Matching, level: float, label: str, column: MetricColumn) -> Cell:
        """A method's metric at a level, with its interval over prompts or seeds."""
        rows = matching.at(level)
        rows = rows[rows["run"].isin(self.members[label].values())]
        return over_seeds(rows[(rows["metric"] == column.metric) & (rows["temperature"] == column.temperature)])

    def difference(self, matching: Matching, level: float, pair: tuple[str, str], column: MetricColumn) -> Cell:
        """The first method minus the second: paired over prompts, and over seeds where both have several."""
        first, second = (self.members[label] for label in pair)
        pairs = [(run_id, second[seed]) for seed, run_id in first.items() if seed in second]
        if not pairs:
            return Cell(np.nan, reason="no seed is in both methods")
        return matching.difference(pairs, level, column)


def over_seeds(rows: pd.DataFrame) -> Cell:
    """A row's own interval over prompts, or that over seeds where there are several rows."""
    if rows.empty:  # no step was made, say
        return Cell(math.nan)
    if len(rows) == 1:
        return _cell(rows.iloc[0])
    if not np.isfinite(rows["value"]).all():
        return Cell(math.nan, kind=Kind.SEED_MEAN, reason="a seed has no value")
    return Cell.of(interval(rows["value"], over="seeds"))


def _cell(row: pd.Series) -> Cell:
    """A row of a table of estimates."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return Cell(value, low, high, kind=row.get("kind", ""), reason=row.get("reason", ""))


def comparisons(runs: Mapping[str, Run]) -> list[Comparison]:
    """The runs, apart by what truncates the first distribution that each was evaluated at.

    Values at different truncations are different quantities and are not compared.
    """
    evals: dict[str, dict[str, pd.DataFrame]] = {}
    for run_id, run in runs.items():
        rows = run.table("evals")
        first, *others = SamplingParams.all_in(rows) or [SamplingParams()]
        parts = [params.rows(rows) for params in (first, *others) if params.truncation == first.truncation]
        evals.setdefault(first.truncation, {})[run_id] = pd.concat(parts)
    return [Comparison.of({run_id: runs[run_id] for run_id in group}, group) for group in evals.values()]


def _metric_columns(evals: Mapping[str, pd.DataFrame]) -> tuple[MetricColumn, ...]:
    """The metrics that all runs have. Of samples, Pass@k exists up to their number."""
    first, *second = (float(t) for t in next(iter(evals.values()))["temperature"].unique()[:2])
    samples = samples_per_prompt(evals.values())
    ks = KS if samples is None else sorted({1, samples // 4, samples // 2, samples} - {0})
    columns = [MetricColumn(f"pass_at_{k}", f"Pass@{k}", f"pass@{k}", first) for k in ks]
    for t in second:
        key = f"{t:g}".replace(".", "_")
        columns += [
            MetricColumn(f"pass_at_{k}_at_temperature_{key}", f"Pass@{k} at T = {t:g}", f"pass@{k}", t) for k in KS_COLD
        ]
    columns.append(MetricColumn(ENTROPY, "entropy (nats)", "entropy_fixed", first))
    columns.append(MetricColumn(EFFECTIVE, "effective solutions", "effective_solutions", first))
    columns += [MetricColumn(metric, heading, metric, first) for metric, heading in _MODE]
    return tuple(column for column in columns if all(_has(rows, column) for rows in evals.values()))


def _has(rows: pd.DataFrame, column: MetricColumn) -> bool:
    at = rows[(rows["split"] == "test") & (rows["temperature"] == column.temperature)]
    return bool(np.isfinite(get_metric(column.metric).values(at)).any())
