"""The simulated worlds of each kind of interval: how data is drawn, what is true, and which interval is computed.

A world draws data as the kind's sampling model says and calls the function that tables and figures call. The truth is
exact where there is a formula, else the same statistic of a large population, which is drawn once from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from ..evaluation import get_metric, interval, matched, pass_at_k_exact
from ..evaluation.crossings import crossing
from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import Interval, over_replicates
from ..evaluation.matched_intervals import AtPlace, difference_interval, value_interval
from ..gradient_noise.moments import GradientNoise
from ..report.bands import log_ratio, ratio

__all__ = ["Condition", "Draws", "conditions"]

Draws = list[tuple[Interval, float]]  # intervals with what is true, for each of the condition's rows

POPULATION = 400_000
SPREADS = ((2.0, 3.0), (0.5, 0.5), (0.1, 0.3), (0.3, 0.1))  # Beta distributions of p over prompts
NARROW = ((20.0, 20.0), (30.0, 1.0))


@dataclass(frozen=True)
class Condition:
    """Worlds that are drawn together.

    Attributes:
        rows: By kind of the intervals what is told apart, such as metrics; one interval of each draw belongs to each.
        size: How much data.
        draw: From a generator to one interval a row, each with what is true.
        replicates: Fraction of the replicates that are asked for; costly worlds have fewer.
        claimed: Whether 93 to 97% is claimed there.
    """

    rows: Mapping[Kind, Sequence[str]]
    size: str
    draw: Callable[[np.random.Generator], Draws]
    replicates: float = 1.0
    claimed: bool = True


def conditions() -> Iterator[Condition]:
    """All of them, in the order of `Kind`."""
    yield from _seeds()
    yield from _proportions()
    yield from _successes()
    yield from _means()
    yield from _spreads()
    yield from _differences()
    yield from _matched()
    yield from _ratios()
    yield from _unexplained()
    yield from _noise()
    yield from _crossings()


def _one(found: Interval, truth: float) -> Draws:
    return [(found, truth)]


def _seeds() -> Iterator[Condition]:
    worlds: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
        "normal": (lambda rng, n: rng.normal(size=n), 0.0),
        "uniform": (lambda rng, n: rng.random(n), 0.5),
        "gamma, skewness 1": (lambda rng, n: rng.gamma(4.0, size=n), 4.0),
    }
    for name, (draw, truth) in worlds.items():
        for n in (2, 3, 5, 8, 20):
            yield Condition(
                {Kind.SEED_MEAN: (name,)},
                f"{n} seeds",
                lambda rng, draw=draw, n=n, truth=truth: _one(interval(draw(rng, n), over="seeds"), truth),
            )


def _proportions() -> Iterator[Condition]:
    for p in (0.1, 0.3, 0.5):
        for n in (16, 32, 64, 256):
            yield Condition(
                {Kind.PROPORTION: (f"p = {p:g}",)},
                f"{n} prompts",
                lambda rng, n=n, p=p: _one(interval(rng.random(n) < p, method="wilson"), p),
            )


@cache
def _mean_pass_at_k(a: float, b: float, k: int) -> float:
    """E[1 − (1 − p)^k] = 1 − B(a, b + k)/B(a, b) for p from Beta(a, b)."""
    from scipy.special import betaln

    return float(-np.expm1(betaln(a, b + k) - betaln(a, b)))


def _successes() -> Iterator[Condition]:
    for a, b in (*SPREADS, *NARROW):
        for k in (1, 8, 256):
            truth = _mean_pass_at_k(a, b, k)
            for n in (10, 16, 64, 256):
                yield Condition(
                    {Kind.SUCCESS: (f"Pass@{k}, p from Beta({a:g}, {b:g}), mean {truth:.4g}",)},
                    f"{n} prompts",
                    lambda rng, a=a, b=b, k=k, n=n, truth=truth: _one(
                        interval(pass_at_k_exact(rng.beta(a, b, n), k), method="success", generator=rng), truth
                    ),
                    claimed=(a, b) in SPREADS and 0.02 < truth < 0.98,
                )


def _means() -> Iterator[Condition]:
    worlds: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
        "normal": (lambda rng, n: rng.normal(size=n), 0.0),
        "gamma, skewness 1": (lambda rng, n: rng.gamma(4.0, size=n), 4.0),
        "exponential, skewness 2": (lambda rng, n: rng.exponential(size=n), 1.0),
        "log-normal, skewness 6": (lambda rng, n: rng.lognormal(0.0, 1.0, n), float(np.exp(0.5))),
    }
    for name, (draw, truth) in worlds.items():
        for n in (16, 32, 64, 128):
            yield Condition(
                {Kind.PROMPT_MEAN: (name,)},
                f"{n} prompts",
                lambda rng, draw=draw, n=n, truth=truth: _one(interval(draw(rng, n)), truth),
                claimed="log-normal" not in name,
            )


def _spreads() -> Iterator[Condition]:
    metric = get_metric("p_std")
    for a, b in (*SPREADS, (20.0, 20.0)):
        truth = float(np.sqrt(a * b / (a + b + 1)) / (a + b))
        for n in (32, 64, 128, 256):
            yield Condition(
                {Kind.PROMPT_SPREAD: (f"p from Beta({a:g}, {b:g})",)},
                f"{n} prompts",
                lambda rng, a=a, b=b, n=n, truth=truth: _one(
                    value_interval(metric, AtPlace(rng.beta(a, b, n)), 0.95, rng), truth
                ),
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


def _differences() -> Iterator[Condition]:
    for a, b in ((2.0, 3.0), (0.5, 0.5), (0.1, 0.3)):
        for k in (1, 8, 256):
            truth = _mean_gain(a, b, k)

            def draw(
                rng: np.random.Generator, n: int, a: float = a, b: float = b, k: int = k, truth: float = truth
            ) -> Draws:
                first, second = (AtPlace(pass_at_k_exact(p, k)) for p in _policies(rng, a, b, n))
                return _one(difference_interval(get_metric(f"pass@{k}"), [second, first], 0.95), truth)

            for n in (16, 32, 64, 128):
                yield Condition(
                    {Kind.PROMPT_DIFFERENCE: (f"Pass@{k}, p from Beta({a:g}, {b:g})",)},
                    f"{n} prompts",
                    lambda rng, n=n, draw=draw: draw(rng, n),
                    claimed=(a, k) != (2.0, 256),
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
def _matched_truth(a: float, b: float) -> list[float]:
    """Of each row of `_matched_rows`, from many prompts."""
    runs = _runs(np.random.default_rng(12), a, b, POPULATION // 8)
    return [found.estimate for found in _matched_rows(runs, 2, 0)]


def _matched_rows(
    runs: dict[str, pd.DataFrame], resamples: int, generator: np.random.Generator | int
) -> list[Interval]:
    """Values of the slow run and differences, metric by metric at each fraction."""
    found = matched(runs, _METRICS, fractions=tuple(_FRACTIONS), resamples=resamples, generator=generator)
    values = found.table[found.table["run"] == "slow"]
    return [_read(row) for rows in (values, found.difference("fast", "slow")) for row in rows.itertuples()]


def _matched() -> Iterator[Condition]:
    for a, b in ((2.0, 3.0), (0.1, 0.3)):

        def draw(rng: np.random.Generator, n: int, a: float = a, b: float = b) -> Draws:
            found = _matched_rows(_runs(rng, a, b, n), 400, rng)
            return list(zip(found, _matched_truth(a, b), strict=True))

        rows = [f"{metric} {where}, p from Beta({a:g}, {b:g})" for where in _FRACTIONS.values() for metric in _METRICS]
        kinds = {Kind.MATCHED_VALUE: rows, Kind.MATCHED_DIFFERENCE: rows}
        for n in (32, 64, 128):
            yield Condition(kinds, f"{n} + {n} prompts", lambda rng, n=n, draw=draw: draw(rng, n), replicates=0.2)


def _read(row: object) -> Interval:
    return Interval(row.value, row.low, row.high, row.kind, row.reason)  # type: ignore[attr-defined]


def _ratios() -> Iterator[Condition]:
    for a, b in ((2.0, 6.0), (0.5, 5.0)):

        def draw(rng: np.random.Generator, n: int, a: float = a, b: float = b) -> Draws:
            tokens = 1 + rng.poisson(rng.gamma(4.0, 50.0, n))
            counts = rng.binomial(tokens, rng.beta(a, b, n)).astype(float)
            return _one(ratio(np.arange(n), counts, tokens.astype(float)), a / (a + b))

        for n in (16, 32, 64, 128):
            yield Condition(
                {
                    Kind.PROMPT_RATIO: (
                        f"fraction of tokens, by prompt from Beta({a:g}, {b:g}), lengths with a CV of ½",
                    )
                },
                f"{n} prompts",
                lambda rng, n=n, draw=draw: draw(rng, n),
            )


def _contexts(rng: np.random.Generator, n: int, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prompt, change, residual) of six contexts a prompt; the residual is of second order in the change."""
    prompts = np.repeat(np.arange(n), 6)
    size = np.exp(sigma * rng.normal(size=n))[prompts]
    change = size * rng.normal(size=6 * n)
    return prompts, change, 0.1 * size**0.5 * change * rng.normal(size=6 * n)


@cache
def _unexplained_truth(sigma: float) -> float:
    """log of E residual² / Var change: 0.01·E size³/E size² = 0.01·e^{(9 − 4)σ²/2}."""
    return float(np.log(0.01) + 2.5 * sigma**2)


def _unexplained() -> Iterator[Condition]:
    for sigma in (0.0, 0.3, 0.6):

        def draw(rng: np.random.Generator, n: int, sigma: float = sigma) -> Draws:
            prompts, change, residual = _contexts(rng, n, sigma)
            found = log_ratio(prompts, residual**2, (change - change.mean()) ** 2, 1e-9)
            return _one(found, _unexplained_truth(sigma))

        for n in (32, 64, 128, 256):
            yield Condition(
                {Kind.UNEXPLAINED: (f"sizes of changes by prompt log-normal, σ = {sigma:g}",)},
                f"{n} prompts",
                lambda rng, n=n, draw=draw: draw(rng, n),
                claimed=sigma < 0.5,
            )


_DIMENSIONS, _ROLLOUTS = 40, 512


def _noise() -> Iterator[Condition]:
    variances = 1 / np.arange(1, _DIMENSIONS + 1)
    gradient = np.random.default_rng(13).normal(size=_DIMENSIONS)
    gradient /= np.linalg.norm(gradient)
    true = _ROLLOUTS * variances.sum() * np.array([1.0, 1.6**2 + 0.5**2])

    def draw(rng: np.random.Generator, replicates: int) -> Draws:
        first = rng.normal(size=(replicates, _DIMENSIONS)) * np.sqrt(variances)
        second = 1.6 * rng.normal(size=(replicates, _DIMENSIONS)) * np.sqrt(variances) + 0.5 * first
        drawn = gradient + np.stack([first, second])
        prompts, group = np.full(_ROLLOUTS // 8, 0.5), 8
        gram, dots = drawn @ drawn.transpose(0, 2, 1), drawn @ gradient
        row = GradientNoise(("PSR", "NSR"), np.ones(2), gram, dots, 1.0, prompts, group, 1.0).frame().iloc[1]
        return [
            (over_replicates(row[name], row[f"{name}_se"], replicates), truth)
            for name, truth in (("noise_to_signal", true[1]), ("noise_ratio", true[1] / true[0]))
        ]

    for replicates in (5, 8, 16, 64):
        yield Condition(
            {Kind.NOISE: ("noise / signal", "variance, NSR / PSR")},
            f"{replicates} replicates",
            lambda rng, k=replicates: draw(rng, k),
            replicates=0.5,
        )


def _crossings() -> Iterator[Condition]:
    at = 0.8
    for bend in (0.0, 0.1):
        for scatter in (0.0, 0.1, 0.3, 0.6):

            def draw(rng: np.random.Generator, n: int, bend: float = bend, scatter: float = scatter) -> Draws:
                p = np.clip(np.linspace(0.2, 0.95, n) + rng.normal(0, 0.02, n), 0.05, 0.98)
                from_zero = np.log(p) - np.log1p(-p) - np.log(at / (1 - at))
                error = 0.1 * np.exp(0.3 * rng.normal(size=n))
                height = -0.9 * from_zero - bend * from_zero**2 + scatter * rng.normal(size=n)
                measured = np.exp(height + error * rng.normal(size=n))
                known = measured * error * np.sqrt(rng.chisquare(15, n) / 15)
                found = crossing(p, measured, known)
                low = 0.0 if found.low is None else found.low
                high = 1.0 if found.high is None else found.high
                if found.reason:
                    low = high = np.nan
                return _one(Interval(np.nan, low, high, found.kind, found.reason), at)

            shape = "line" if bend == 0 else "curve"
            for n in (4, 5, 7, 12):
                yield Condition(
                    {Kind.CROSSING: (f"{shape}, bases scatter by {scatter:g} in the log ratio",)},
                    f"{n} bases",
                    lambda rng, n=n, draw=draw: draw(rng, n),
                    replicates=0.5,
                )
