"""Runs compared at matched points: equal Pass@1, equal optimiser updates or equal steps.

Each run is a curve of evaluations. A level is matched at its first crossing, interpolated between two evaluations:
see `first_crossing`. For Pass@1 x is the exact mean p over the *validation* prompts, while the
metrics are of the *test* prompts, so that noise of the matching does not leak into what is compared. Step, update and
the per-prompt values of each metric are interpolated alike; metrics are then joined over prompts. Only
prompts that are present at every evaluation of every run count.

Where success was not enumerated, `estimated=True` matches at the share of correct samples instead. That is noisy, and
a first crossing follows the noise: it tends to come too early.

A run that never gets to a level, or starts above it, has not reached it: `reached` is False and its values are NaN.

Levels unless given, a rule fixed before any result was seen. Pass@1: the common range goes from the largest value at
the first evaluation over runs to the smallest over runs of the largest value ever reached; levels at 25, 50, 75 and
100% of it. Where that range is empty (a run that never gets above the start of another, or one that was evaluated
once) there is no common level and EmptyRangeError names the run. Update and step: the last common one.

Intervals are over test prompts, and where Pass@1 is matched over validation prompts too: the matching is done again for
resampled ones (`matched_intervals`). They say nothing about other seeds: `Matched.paired_difference` has the interval
over paired seeds. Where no interval covers there is none, and the column `reason` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from ..common.short_repr import short_repr
from ..errors import UsageError
from .first_crossing import first_crossing
from .interval_kinds import Kind
from .intervals import Interval, interval, no_interval
from .matched_intervals import AtPlace, Levels, MatchedPlaces, at_place, difference_interval, value_interval
from .metrics import EXACT_P, METRICS, HasTables, Panel, evals_of, get_metric
from .sampling_params import SamplingParams

__all__ = ["FRACTIONS", "EmptyRangeError", "Matched", "matched"]

At = Literal["pass@1", "update", "step"]
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
_INTERVAL = ("value", "low", "high", "kind", "reason")  # columns of an interval


class EmptyRangeError(UsageError):
    """No level of Pass@1 lies on the curves of all runs; the message names the run that ends below another's start."""


@short_repr
@dataclass(frozen=True)
class Matched:
    """Runs at matched points; `difference` compares two of them prompt by prompt.

    Attributes:
        table: one row per level, run and metric, with the columns at, level, run, reached, step, update, pass@1
            (validation, at the match temperature), metric, temperature, top_k, top_p, value, low, high, kind (of the
            interval) and reason (why there is none).
        prompt_ids: the test prompts that every value is over.
    """

    table: pd.DataFrame
    prompt_ids: tuple[str, ...]
    _at: dict[tuple[float, str, str], AtPlace] = field(repr=False)  # level, run, metric
    _confidence: float = field(repr=False)

    def values(self, level: float, run: str, metric: str) -> np.ndarray:
        """Interpolated value of each prompt of `prompt_ids`.

        Raises:
            UsageError: the run did not reach the level.
        """
        if (level, run, metric) not in self._at:
            raise UsageError(
                f"level, run, metric: nothing matched at {(level, run, metric)}; see the rows of table that are reached"
            )
        return self._at[level, run, metric].values

    def difference(self, run: str, baseline: str) -> pd.DataFrame:
        """`run` − `baseline` at each level, paired over prompts.

        Returns:
            Columns level, metric, value, low, high, kind, reason; NaN where either run has not reached the level. A
            difference of log_effective_solutions is a log ratio.

        Raises:
            UsageError: an unknown run.
        """
        self._check(run, baseline)
        return self._frame(
            lambda level, metric: difference_interval(
                get_metric(metric), [self._at.get((level, name, metric)) for name in (run, baseline)], self._confidence
            )
        )

    def paired_difference(self, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """Mean of first − second over pairs of runs, one pair a seed, with Student's interval over the seeds.

        Args:
            pairs: names of runs, such as [("nsr-seed0", "psr-seed0"), ("nsr-seed1", "psr-seed1")].

        Returns:
            Columns as of `difference`; NaN where a run of any pair has not reached the level.

        Raises:
            UsageError: no pairs, or an unknown run.
        """
        if not pairs:
            raise UsageError("pairs: expected at least one pair of runs, got none")
        self._check(*(name for pair in pairs for name in pair))

        def over_seeds(level: float, metric: str) -> Interval:
            values = [
                difference_interval(
                    get_metric(metric), [self._at.get((level, name, metric)) for name in pair], self._confidence
                ).estimate
                for pair in pairs
            ]
            if not np.isfinite(values).all():
                return no_interval(np.nan, "a run has not reached the level", Kind.SEED_MEAN)
            return interval(values, over="seeds", level=self._confidence)

        return self._frame(over_seeds)

    def _check(self, *names: str) -> None:
        known = self.table["run"].unique()
        for name in names:
            if name not in known:
                raise UsageError(f"run: expected one of {', '.join(known)}, got {name!r}")

    def _frame(self, of: Callable[[float, str], Interval]) -> pd.DataFrame:
        places = self.table[["level", "metric"]].drop_duplicates().itertuples(index=False)
        rows = [(level, metric, *_columns(of(level, metric))) for level, metric in places]
        return pd.DataFrame(rows, columns=["level", "metric", *_INTERVAL])


def matched(
    runs: Mapping[str, HasTables | pd.DataFrame],
    metric: str | Sequence[str],
    at: At = "pass@1",
    *,
    levels: Sequence[float] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    levels_from: Sequence[str] | None = None,
    temperature: float = 1.0,
    match_temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    estimated: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator | int = 0,
) -> Matched:
    """Compare runs at equal Pass@1, equal optimiser updates or equal steps.

    At equal steps the runs have travelled different distances; at equal Pass@1 they have not. The matching rule, the
    default levels and the intervals are described at the top of this module.

    Args:
        runs: name to run, or to its table `evals`, as in `Experiment.runs`.
        metric: one name or several of `METRICS`, or pass@k for any k.
        at: what is equal.
        levels: values of `at` to compare at; unset: the default levels.
        fractions: of the common range of Pass@1, for the default levels.
        levels_from: the runs whose common range gives the default levels; unset: all.
        temperature: of the metrics.
        match_temperature: of the Pass@1 that is matched.
        top_k, top_p: how the distribution of both is truncated.
        estimated: whether Pass@1 may come from samples where p was not enumerated.
        confidence: level of the intervals.
        resamples: of the validation prompts, for the intervals at equal Pass@1.
        generator: of the resamples and of the draws of the intervals, or its seed.

    Returns:
        A `Matched`: its `table`, and `difference` for two runs prompt by prompt.

    Raises:
        UsageError: an unknown metric or `at`, levels out of range, sampling parameters that were not evaluated, or a
            metric or p that is missing there.
        EmptyRangeError: no level of Pass@1 lies on the curves of all runs.

    Example:
        >>> experiment = analysis.load_trace("runs/…")  # doctest: +SKIP
        >>> analysis.matched(experiment.runs, "entropy_fixed").difference("nsr-seed0", "psr-seed0")  # doctest: +SKIP
    """
    names = [metric] if isinstance(metric, str) else list(metric)
    metrics = [get_metric(name) for name in names]
    if at not in ("pass@1", "update", "step"):
        raise UsageError(f"at: expected pass@1, update or step, got {at!r}")
    if not runs or not names:
        raise UsageError(f"runs, metric: expected at least one of each, got {len(runs)} and {len(names)}")
    evals = {name: evals_of(run) for name, run in runs.items()}
    validation = _panels(evals, "validation", SamplingParams(match_temperature, top_k, top_p))
    test = _panels(evals, "test", SamplingParams(temperature, top_k, top_p))
    for name, panel in test.items():
        if list(panel.steps) != list(validation[name].steps):
            raise UsageError(
                f"runs: expected validation and test prompts evaluated at the same steps, got "
                f"{list(validation[name].steps)} and {list(panel.steps)} in run {name}"
            )
    by_prompt = {name: _pass_at_1(panel, estimated=estimated) for name, panel in validation.items()}
    pass_at_1 = {name: values.mean(axis=1) for name, values in by_prompt.items()}
    missing = [name for name, x in pass_at_1.items() if np.isnan(x).any()]
    if at == "pass@1" and missing:
        got = "neither p nor samples" if estimated else "missing ones"
        raise UsageError(
            f"runs: expected exact success probabilities p of the validation prompts, got {got} in run "
            f"{missing[0]}; without them the matching follows the noise of samples, which estimated=True "
            "allows where there are samples"
        )
    series = {(name, m.name): panel.values(m) for name, panel in test.items() for m in metrics}
    for (name, metric_name), known in series.items():
        if np.isnan(known).all(axis=1).any():
            raise UsageError(
                f"metric: {metric_name} is missing at temperature {temperature:g} in run {name}; metrics "
                "of own samples exist at the first temperature, those of p where solutions are enumerated"
            )
    axis = (
        pass_at_1
        if at == "pass@1"
        else {
            name: (panel.updates if at == "update" else panel.steps).astype(np.float64) for name, panel in test.items()
        }
    )
    ranging = list(axis) if levels_from is None else list(levels_from)
    if levels is None:
        chosen = default_levels({name: axis[name] for name in ranging}, at, fractions)
    else:
        chosen = _checked_levels(levels, at)
    places = None
    if at == "pass@1":
        places = MatchedPlaces.resampled(
            by_prompt,
            _rule(ranging, fractions) if levels is None else _fixed(chosen),
            generator if isinstance(generator, np.random.Generator) else [generator, 1],
            resamples,
        )

    prompt_ids = next(iter(test.values())).prompt_ids
    rows: list[tuple[object, ...]] = []
    values: dict[tuple[float, str, str], AtPlace] = {}
    for i, level in enumerate(chosen):
        for name, panel in test.items():
            crossing = first_crossing(axis[name], level)
            where = (
                [np.nan] * 3
                if crossing is None
                else [float(crossing.of(x)) for x in (panel.steps, panel.updates, pass_at_1[name])]
            )
            for m in metrics:
                found = no_interval(np.nan, "the run has not reached the level")
                if crossing is not None:
                    curve = series[name, m.name]
                    here = at_place(m, curve, crossing.of(curve), places, (i, name))
                    values[level, name, m.name] = here
                    found = value_interval(m, here, confidence, generator)
                sampling = (m.name, temperature, top_k, top_p)
                rows.append((at, level, name, crossing is not None, *where, *sampling, *_columns(found)))
    where_columns = ["at", "level", "run", "reached", "step", "update", "pass@1"]
    columns = [*where_columns, "metric", "temperature", "top_k", "top_p", *_INTERVAL]
    return Matched(pd.DataFrame(rows, columns=columns), prompt_ids, values, confidence)


def _columns(found: Interval) -> tuple[float, float, float, str, str]:
    return found.estimate, found.low, found.high, str(found.kind), found.reason


def _rule(names: Sequence[str], fractions: Sequence[float]) -> Levels:
    """The default levels of curves (B, E) by run, as `default_levels` chooses them; NaN where there is no range."""

    def levels(curves: Mapping[str, np.ndarray]) -> np.ndarray:
        low = np.max([curves[name][:, 0] for name in names], axis=0)[:, None]
        high = np.min([curves[name].max(1) for name in names], axis=0)[:, None]
        share = np.asarray(fractions, dtype=np.float64)
        return np.where(low < high, low * (1 - share) + high * share, np.nan)

    return levels


def _fixed(levels: Sequence[float]) -> Levels:
    return lambda curves: np.broadcast_to(np.asarray(levels), (len(next(iter(curves.values()))), len(levels)))


def _pass_at_1(panel: Panel, *, estimated: bool) -> np.ndarray:
    exact = panel.values(EXACT_P)
    return np.where(np.isnan(exact), panel.values(METRICS["pass@1"]), exact) if estimated else exact


def _panels(evals: Mapping[str, pd.DataFrame], split: str, params: SamplingParams) -> dict[str, Panel]:
    """Each run's rows of one split at `params`, over the prompts that all evaluations of all runs share."""
    parts = {}
    for name, rows in evals.items():
        at = rows[rows["split"] == split]
        parts[name] = params.rows(at)
        if parts[name].empty:
            known = "; ".join(map(str, sorted(SamplingParams.all_in(at)))) or "none"
            raise UsageError(
                f"temperature, top_k, top_p: expected sampling parameters at which the {split} prompts of run {name} "
                f"were evaluated ({known}), got {params}"
            )
    common = set.intersection(*(set(Panel.of(rows).prompt_ids) for rows in parts.values()))
    return {name: Panel.of(rows, common) for name, rows in parts.items()}


def default_levels(axis: Mapping[str, np.ndarray], at: At, fractions: Sequence[float] = FRACTIONS) -> list[float]:
    """The levels of curves by name unless some are given: see the top of this module.

    Raises:
        EmptyRangeError: the curves have no common range of Pass@1.
    """
    last = min(axis, key=lambda name: axis[name].max())
    high = float(axis[last].max())
    if at != "pass@1":
        return [high]
    first = max(axis, key=lambda name: axis[name][0])
    low = float(axis[first][0])
    if not low < high:
        raise EmptyRangeError(
            f"runs: expected a common range of validation Pass@1, but {last} never gets above "
            f"{high:.4g} and {first} starts at {low:.4g}; leave the run out, match at 'step' or "
            "give levels"
        )
    return [low * (1 - fraction) + high * fraction for fraction in fractions]


def _checked_levels(levels: Sequence[float], at: At) -> list[float]:
    top = 1.0 if at == "pass@1" else np.inf
    for level in levels:
        if not (np.isfinite(level) and 0 <= level <= top):
            raise UsageError(f"levels: expected numbers from 0 {'to 1' if at == 'pass@1' else 'up'}, got {level}")
    if len(set(levels)) < len(levels) or not len(levels):
        raise UsageError(f"levels: expected distinct levels, at least one, got {list(levels)}")
    return [float(level) for level in levels]
