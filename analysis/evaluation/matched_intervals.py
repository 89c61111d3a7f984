"""Intervals at matched points, over test prompts and the validation prompts of the matching.

What is matched at a level of Pass@1 depends on which validation prompts were drawn. The matching is therefore done
again for resampled validation prompts, the same in every run: each gives the place of the crossing, and the metric
there of the test prompts as they are. Variance and skewness of these are added to those of the test prompts (the two
sets are independent). A level of the default rule is chosen again in each resample by that rule; one that was given is
fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .influence import Spread, few
from .interval_kinds import LEAST_PROMPTS, LEAST_PROMPTS_DIFFERENCE, LEAST_PROMPTS_SPREAD, Kind
from .intervals import Interval, bootstrap_weights, no_interval, smooth, success
from .metrics import Metric

__all__ = ["AtPlace", "Levels", "MatchedPlaces", "at_place", "difference_interval", "value_interval"]

_UNREACHED = 0.05  # share of the resamples that may miss a level

Seeds = np.random.Generator | int | Sequence[int]
Levels = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class MatchedPlaces:
    """Where each run reaches each level when the validation prompts are drawn again.

    Attributes:
        places: (level index, run) -> the evaluation before, the one after, and the fraction between them, (B,) each;
            the fraction is NaN where the level is not reached.
        units: validation prompts.
    """

    places: Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray, np.ndarray]]
    units: int

    @classmethod
    def resampled(
        cls, pass_at_1: Mapping[str, np.ndarray], levels: Levels, generator: Seeds, resamples: int
    ) -> MatchedPlaces:
        """From the Pass@1 of each validation prompt, run -> (E, n), the same prompts in every run.

        Args:
            pass_at_1: by run.
            levels: of curves (B, E) by run, the levels (B, L).
            generator: of the resamples, or its seed.
            resamples: B.
        """
        units = next(iter(pass_at_1.values())).shape[1]
        weights = bootstrap_weights(units, generator, resamples)
        curves = {name: weights @ values.T for name, values in pass_at_1.items()}
        at = levels(curves)
        return cls(
            {(i, name): _crossings(curve, at[:, i]) for name, curve in curves.items() for i in range(at.shape[1])},
            units,
        )


def _crossings(curves: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`first_crossing` of each curve (B, E) at its own level (B,)."""
    above = curves >= levels[:, None]
    after = above.argmax(1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(curves))
    rise = curves[rows, after] - curves[rows, before]
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = np.where(after == 0, 0.0, (levels - curves[rows, before]) / rise)
    reached = above.any(1) & (curves[:, 0] <= levels)
    return before, after, np.where(reached, fraction, np.nan)


@dataclass(frozen=True)
class AtPlace:
    """One metric of one run at one place.

    Attributes:
        values: (n,) of each test prompt there.
        resampled: (B, n) or (B,): at the places of the resamples, of each prompt, or their mean where that is all that
            is needed; None where the place does not depend on prompts.
        validation: how many validation prompts were resampled.
    """

    values: np.ndarray
    resampled: np.ndarray | None = None
    validation: int = 0


def at_place(
    metric: Metric, series: np.ndarray, values: np.ndarray, places: MatchedPlaces | None, key: tuple[int, str]
) -> AtPlace:
    """One metric of a run from its curve `series` (E, n) and its values (n,) at the crossing."""
    if places is None:
        return AtPlace(values)
    before, after, fraction = places.places[key]
    if metric.combine == "mean" and not np.isnan(series).any():
        curve = series.mean(1)
        return AtPlace(values, (1 - fraction) * curve[before] + fraction * curve[after], places.units)
    between = fraction[:, None]
    return AtPlace(values, (1 - between) * series[before] + between * series[after], places.units)


def value_interval(metric: Metric, at: AtPlace, level: float, generator: np.random.Generator | int) -> Interval:
    """The metric of one policy. Prompts without a value are left out."""
    known = ~np.isnan(at.values)
    values = at.values[known]
    estimate = _joined(metric, values)
    kind = _kind(metric, matched=at.resampled is not None)
    draws, reason = _draws(metric, at, known, LEAST_PROMPTS)
    least = LEAST_PROMPTS_SPREAD if metric.combine == "std" else LEAST_PROMPTS
    if not reason and not metric.success and len(values) < least:
        reason = few(len(values), least)
    if reason:
        return no_interval(estimate, reason, kind)
    if metric.success:
        matching = None if draws is None else (draws - draws.mean()) * _widened(at)
        return success(values, level=level, generator=generator, matching=matching, kind=kind)
    influence = metric.influence(values)
    if metric.combine == "mean":
        spreads = [Spread.of(influence, float(np.abs(values).max()))]
        spreads += [] if draws is None else [Spread.of_draws(draws, at.validation)]
        return smooth(estimate, spreads, kind, level, least)
    if estimate <= 0:
        return no_interval(estimate, "the value is 0, which has no logarithm", kind)
    spreads = [Spread.of(influence, 1.0)]
    spreads += [] if draws is None else [Spread.of_draws(np.log(draws), at.validation)]
    centre = np.log(estimate)
    if metric.combine == "std":  # the standard deviation of a sample is short of that of all prompts
        centre += 0.5 * np.log(len(values) / (len(values) - 1))
    found = smooth(float(centre), spreads, kind, level, least)
    return Interval(estimate, float(np.exp(found.low)), float(np.exp(found.high)), kind, found.reason)


def difference_interval(metric: Metric, pair: Sequence[AtPlace | None], level: float) -> Interval:
    """The metric of the first policy minus that of the second, paired over prompts."""
    first, second = pair
    matched = any(at is not None and at.resampled is not None for at in pair)
    kind = Kind.MATCHED_DIFFERENCE if matched else Kind.PROMPT_DIFFERENCE
    if first is None or second is None:
        return no_interval(np.nan, "a run has not reached the level", kind)
    known = ~(np.isnan(first.values) | np.isnan(second.values))
    both = [at.values[known] for at in (first, second)]
    estimate = _joined(metric, both[0]) - _joined(metric, both[1])
    ways = [_draws(metric, at, known, LEAST_PROMPTS_DIFFERENCE) for at in (first, second)]
    reason = next((reason for _, reason in ways if reason), "")
    if reason:
        return no_interval(estimate, reason, kind)
    # on the scale of the metric: the influence on a logarithm times the value
    scales = [1.0 if metric.combine == "mean" else _joined(metric, values) for values in both]
    one, other = (scale * metric.influence(values) for scale, values in zip(scales, both, strict=True))
    spreads = [Spread.of(one - other, float(max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))))]
    if ways[0][0] is not None and ways[1][0] is not None:
        spreads.append(Spread.of_draws(ways[0][0] - ways[1][0], first.validation))
    return smooth(estimate, spreads, kind, level)


def _kind(metric: Metric, *, matched: bool) -> Kind:
    if matched:
        return Kind.MATCHED_VALUE
    if metric.success:
        return Kind.SUCCESS
    return Kind.PROMPT_SPREAD if metric.combine == "std" else Kind.PROMPT_MEAN


def _joined(metric: Metric, values: np.ndarray) -> float:
    if not len(values):
        return np.nan
    return float(metric.over_prompts(values, np.full((1, len(values)), 1 / len(values)))[0])


def _draws(metric: Metric, at: AtPlace, known: np.ndarray, least: int) -> tuple[np.ndarray | None, str]:
    """The metric (B,) at the places of the resamples, missed ones replaced by the median; or why there is none, such as
    fewer than `least` validation prompts."""
    if at.resampled is None:
        return None, ""
    if at.validation < least:
        return None, few(at.validation, least, "validation prompts")
    reached = ~(np.isnan(at.resampled) if at.resampled.ndim == 1 else np.isnan(at.resampled).all(1))
    if 1 - reached.mean() > _UNREACHED:
        share = f"{1 - reached.mean():.0%}"
        return None, f"drawn again, {share} of the validation prompts' means do not reach the level"
    draws = at.resampled[reached]
    if draws.ndim == 2:  # by the prompts that have a value wherever it is needed
        draws = draws[:, known & ~np.isnan(draws).any(0)]
        if not draws.shape[1]:
            return None, "no prompt has a value at every evaluation"
        draws = metric.over_prompts(draws, np.full((1, draws.shape[1]), 1 / draws.shape[1]))[:, 0]
    whole = np.full(len(reached), np.median(draws))
    whole[reached] = draws
    return whole, ""


def _widened(at: AtPlace) -> float:
    """Resamples of n units scatter by √((n − 1)/n) too little."""
    return float(np.sqrt(at.validation / (at.validation - 1)))
