"""The simulated worlds of each kind of interval: how data is drawn, what is true, and which interval is computed.

A world draws data as the kind's sampling model says and calls the function that tables and figures call. The truth is
exact where there is a formula, else the same statistic of a large population, which is drawn once from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import get_metric, interval, matched, pass_at_k_exact
from ..evaluation.crossed import crossed_mean
from ..evaluation.crossings import crossing
from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import Interval
from ..evaluation.matched_intervals import AtPlace, difference_interval, value_interval
from ..report.bands import ratio
from .condition import Condition, Draws
from .replicates import replicated

__all__ = ["Condition", "Draws", "conditions"]

POPULATION = 400_000
SPREADS = ((2.0, 3.0), (0.5, 0.5), (0.1, 0.3), (0.3, 0.1))  # Beta distributions of p over prompts
NARROW = ((20.0, 20.0), (30.0, 1.0))


def conditions() -> Iterator[Condition]:
    """All of them, in the order of `Kind`."""
    yield from _seeds()
    yield from _seeds_and_prompts()
    yield from _proportions()
    yield from _successes()
    yield from _means()
    yield from _spreads()
    yield from _differences()
    yield from _matched()
    yield from _ratios()
    yield from replicated()
    yield from _crossings()


_Sample = Callable[[np.random.Generator, int], np.ndarray]


def _one(found: Interval, truth: float) -> Draws:
    return [(found, truth)]


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def _uniform(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.random(n)


def _gamma(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.gamma(4.0, size=n)


def _exponential(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.exponential(size=n)


def _log_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.lognormal(0.0, 1.0, n)


def _seed_mean(sample: _Sample, n: int, truth: float, rng: np.random.Generator) -> Draws:
    return _one(interval(sample(rng, n), over="seeds"), truth)


def _seeds() -> Iterator[Condition]:
    worlds: tuple[tuple[str, _Sample, float], ...] = (
        ("normal", _normal, 0.0),
        ("uniform", _uniform, 0.5),
        ("gamma, skewness 1", _gamma, 4.0),
    )
    for name, sample, truth in worlds:
        for n in (2, 3, 4, 5, 8, 20):
            yield Condition({Kind.SEED_MEAN: (name,)}, f"{n} seeds", partial(_seed_mean, sample, n, truth))


def _seeds_and_prompts_mean(
    n: int, m: int, scales: tuple[float, float, float], skewed: bool, rng: np.random.Generator
) -> Draws:
    of_seeds, of_prompts, of_rest = scales
    prompts = rng.exponential(size=m) - 1 if skewed else rng.normal(size=m)
    values = of_seeds * rng.normal(size=(n, 1)) + of_prompts * prompts + of_rest * rng.normal(size=(n, m))
    return _one(crossed_mean(values).interval(), 0.0)


def _seeds_and_prompts() -> Iterator[Condition]:
    worlds = (
        ("seeds scatter by 1, prompts by 0, the rest by 1", (1.0, 0.0, 1.0), False),
        ("seeds scatter by 1, skewed prompts by 1, the rest by 1", (1.0, 1.0, 1.0), True),
        ("seeds scatter by 0.3, prompts by 1, the rest by 1", (0.3, 1.0, 1.0), False),
        ("seeds scatter by 0.1, skewed prompts by 1, the rest by 1", (0.1, 1.0, 1.0), True),
        ("seeds scatter by 0, prompts by 1, the rest by 1", (0.0, 1.0, 1.0), False),
        ("seeds and prompts scatter by 0, the rest by 1", (0.0, 0.0, 1.0), False),
    )
    for name, scales, skewed in worlds:
        for n in (4, 8):
            for m in (64, 128):
                yield Condition(
                    {Kind.SEEDS_AND_PROMPTS: (name,)},
                    f"{n} seeds, {m} prompts",
                    partial(_seeds_and_prompts_mean, n, m, scales, skewed),
                )


def _proportion(n: int, p: float, rng: np.random.Generator) -> Draws:
    return _one(interval(rng.random(n) < p, method="proportion"), p)


def _proportions() -> Iterator[Condition]:
    for p in (0.1, 0.3, 0.5):
        for n in (10, 16, 32, 48, 64, 256):
            yield Condition({Kind.PROPORTION: (f"p = {p:g}",)}, f"{n} prompts", partial(_proportion, n, p))


@cache
def _mean_pass_at_k(a: float, b: float, k: int) -> float:
    """E[1 − (1 − p)^k] = 1 − B(a, b + k)/B(a, b) for p from Beta(a, b)."""
    from scipy.special import betaln

    return float(-np.expm1(betaln(a, b + k) - betaln(a, b)))


def _success(a: float, b: float, k: int, n: int, truth: float, rng: np.random.Generator) -> Draws:
    return _one(interval(pass_at_k_exact(rng.beta(a, b, n), k), method="success"), truth)


def _successes() -> Iterator[Condition]:
    for a, b in (*SPREADS, *NARROW):
        for k in (1, 8, 256):
            truth = _mean_pass_at_k(a, b, k)
            for n in (10, 16, 64, 256):
                yield Condition(
                    {Kind.SUCCESS: (f"Pass@{k}, p from Beta({a:g}, {b:g}), mean {truth:.4g}",)},
                    f"{n} prompts",
                    partial(_success, a, b, k, n, truth),
                    claimed=(a, b) in SPREADS and 0.02 < truth < 0.98,
                )


def _prompt_mean(sample: _Sample, n: int, truth: float, rng: np.random.Generator) -> Draws:
    return _one(interval(sample(rng, n)), truth)


def _means() -> Iterator[Condition]:
    worlds: tuple[tuple[str, _Sample, float], ...] = (
        ("normal", _normal, 0.0),
        ("gamma, skewness 1", _gamma, 4.0),
        ("exponential, skewness 2", _exponential, 1.0),
        ("log-normal, skewness 6", _log_normal, float(np.exp(0.5))),
    )
    for name, sample, truth in worlds:
        for n in (16, 32, 64, 128):
            yield Condition({Kind.PROMPT_MEAN: (name,)}, f"{n} prompts", partial(_prompt_mean, sample, n, truth))


def _spread(a: float, b: float, n: int, rng: np.random.Generator) -> Draws:
    truth = float(np.sqrt(a * b / (a + b + 1)) / (a + b))
    return _one(value_interval(get_metric("p_std"), AtPlace(rng.beta(a, b, n)), 0.95, 0), truth)


def _spreads() -> Iterator[Condition]:
    for a, b in (*SPREADS, (20.0, 20.0)):
        for n in (32, 64, 128, 256):
            yield Condition(
                {Kind.PROMPT_SPREAD: (f"p from Beta({a:g}, {b:g})",)}, f"{n} prompts", partial(_spread, a, b, n)
            )


def _policies(rng: np.random.Generator, a: float, b: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """p of two policies on the same prompts; the second is shifted by 0.3 ± 0.3 in logits."""
    p = np.clip(rng.beta(a, b, n), 1e-12, 1 - 1e-12)
    logits = np.log(p) - np.log1p(-p) + 0.3 + 0.3 * rng.normal(size=n)
    return p, 1 / (1 + np.exp(-logits))


@cache
def _mean_gain(a: float, b: float, k: int) -> float:
    first, second = _policies(np.random.default_rng(11), a, b, 10 * POPULATION)
    return float((pass_at_k_exact(second, k) - pass_at_k_exact(first, k)).mean())


def _difference(a: float, b: float, k: int, n: int, rng: np.random.Generator) -> Draws:
    first, second = (AtPlace(pass_at_k_exact(p, k)) for p in _policies(rng, a, b, n))
    return _one(difference_interval(get_metric(f"pass@{k}"), [second, first], 0.95), _mean_gain(a, b, k))


def _differences() -> Iterator[Condition]:
    for a, b in ((2.0, 3.0), (0.5, 0.5), (0.1, 0.3)):
        for k in (1, 8, 256):
            for n in (32, 64, 128):
                yield Condition(
                    {Kind.PROMPT_DIFFERENCE: (f"Pass@{k}, p from Beta({a:g}, {b:g})",)},
                    f"{n} prompts",
                    partial(_difference, a, b, k, n),
                    claimed=k < 256 or a < 0.5 or (a < 2.0 and n >= 64),
                )


_METRICS = ("pass@1", "pass@8", "entropy_fixed", "effective_solutions", "p_std")
_SPEEDS = {"slow": 0.2, "fast": 0.3}  # of two runs, in logits an evaluation
_EVALUATIONS = 6


def _runs(rng: np.random.Generator, a: float, b: float, n: int) -> dict[str, pd.DataFrame]:
    """Two runs over n validation and n test prompts, which grow from the same p each in its own way."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in _SPEEDS}
    times = np.arange(_EVALUATIONS)[:, None]
    for split in ("validation", "test"):
        p = np.clip(rng.beta(a, b, n), 1e-9, 1 - 1e-9)
        start, base = np.log(p) - np.log1p(-p), rng.gamma(6.0, 1 / 6, n)
        for name, speed in _SPEEDS.items():
            wiggle = 0.1 * rng.normal(size=(_EVALUATIONS, n)) * (times > 0)
            grown = start + speed * (1 + 0.3 * rng.normal(size=n)) * times + wiggle
            fallen = -0.4 * speed * (1 + 0.3 * rng.normal(size=n)) * times
            parts[name].append(
                pd.DataFrame(
                    {
                        "step": np.repeat(np.arange(_EVALUATIONS), n),
                        "update": np.repeat(np.arange(_EVALUATIONS), n),
                        "prompt_id": np.tile(np.arange(n), _EVALUATIONS),
                        "split": split,
                        "temperature": 1.0,
                        "top_p": 1.0,
                        "top_k": 0,
                        "p": (1 / (1 + np.exp(-grown))).ravel(),
                        "n": np.nan,
                        "c": np.nan,
                        "entropy_fixed": (base * np.exp(fallen + 0.05 * wiggle)).ravel(),
                        "effective_solutions": np.exp(2 + 0.5 * start + 3 * fallen).ravel(),
                    }
                )
            )
    return {name: pd.concat(rows) for name, rows in parts.items()}


_FRACTIONS = {0.5: "at half of the range", 1.0: "at the top of the range"}


@cache
def _matched_truth(a: float, b: float) -> tuple[float, ...]:
    """Of each row of `_matched_rows`, from many prompts."""
    runs = _runs(np.random.default_rng(12), a, b, POPULATION // 16)
    return tuple(found.estimate for found in _matched_rows(runs, 2))


def _matched_rows(runs: dict[str, pd.DataFrame], resamples: int) -> list[Interval]:
    """Values of the slow run and differences, metric by metric at each fraction."""
    found = matched(runs, _METRICS, fractions=tuple(_FRACTIONS), resamples=resamples)
    values = found.table[found.table["run"] == "slow"]
    return [_read(row) for rows in (values, found.difference("fast", "slow")) for row in rows.itertuples()]


def _matching(a: float, b: float, n: int, rng: np.random.Generator) -> Draws:
    return list(zip(_matched_rows(_runs(rng, a, b, n), 400), _matched_truth(a, b), strict=True))


def _matched() -> Iterator[Condition]:
    for a, b in ((2.0, 3.0), (0.1, 0.3)):
        rows = [f"{metric} {where}, p from Beta({a:g}, {b:g})" for where in _FRACTIONS.values() for metric in _METRICS]
        for n in (16, 32, 64, 128):
            yield Condition(
                {Kind.MATCHED_VALUE: rows, Kind.MATCHED_DIFFERENCE: rows},
                f"{n} + {n} prompts",
                partial(_matching, a, b, n),
                replicates=0.2,
            )


def _read(row: Any) -> Interval:
    return Interval(row.value, row.low, row.high, row.kind, row.reason)


def _ratio(a: float, b: float, n: int, rng: np.random.Generator) -> Draws:
    tokens = 1 + rng.poisson(rng.gamma(4.0, 50.0, n))
    counts = rng.binomial(tokens, rng.beta(a, b, n)).astype(float)
    return _one(ratio(np.arange(n), counts, tokens.astype(float)), a / (a + b))


def _ratios() -> Iterator[Condition]:
    for a, b in ((2.0, 6.0), (0.5, 5.0)):
        for n in (16, 32, 64, 128):
            yield Condition(
                {Kind.PROMPT_RATIO: (f"fraction of tokens, of each prompt from Beta({a:g}, {b:g})",)},
                f"{n} prompts",
                partial(_ratio, a, b, n),
            )


_AT = 0.8  # the crossing


def _crossed(bend: float, scatter: float, n: int, rng: np.random.Generator) -> Draws:
    p = np.clip(np.linspace(0.2, 0.95, n) + rng.normal(0, 0.02, n), 0.05, 0.98)
    from_zero = np.log(p) - np.log1p(-p) - np.log(_AT / (1 - _AT))
    error = 0.1 * np.exp(0.3 * rng.normal(size=n))
    height = -0.9 * from_zero - bend * from_zero**2 + scatter * rng.normal(size=n)
    measured = np.exp(height + error * rng.normal(size=n))
    found = crossing(p, measured, measured * error * np.sqrt(rng.chisquare(15, n) / 15))
    low, high = found.low, found.high  # an end beyond what was measured leaves nothing out
    ends = (np.nan, np.nan) if found.reason else (0.0 if low is None else low, 1.0 if high is None else high)
    return _one(Interval(np.nan, *ends, found.kind, found.reason), _AT)


def _crossings() -> Iterator[Condition]:
    for shape, bend in (("line", 0.0), ("curve", 0.1)):
        for scatter in (0.0, 0.1, 0.3, 0.6):
            for n in (4, 5, 7, 12):
                yield Condition(
                    {Kind.CROSSING: (f"{shape}, bases scatter by {scatter:g} in the log ratio",)},
                    f"{n} bases",
                    partial(_crossed, bend, scatter, n),
                    replicates=0.5,
                    claimed=scatter > 0,
                )
