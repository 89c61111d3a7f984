"""The worlds of intervals over replicates of gradient estimators: noise, projections and cosines of one batch.

A replicate is a normal vector: the mean of many rollouts. Its noise lies in few directions (variances 1, 1/2, 1/3, …)
or in many alike, and its expectation is small or as large as the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np

from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import mean_over_replicates, over_replicates
from ..gradient_noise.moments import GradientNoise
from .condition import Condition, Draws

__all__ = ["replicated"]

_ROLLOUTS = 512  # of a replicate
_POPULATION, _PARTS = 200_000, 20
_DIMENSIONS = {"few": 40, "many": 400}  # directions of the noise: few with variances 1, 1/2, 1/3, …, many alike
_SIGNALS = {"low": 0.1, "high": 1.0}  # ‖E g‖² over the variance of a replicate


def replicated() -> Iterator[Condition]:
    """All of them, in the order of `Kind`."""
    yield from _noise()
    yield from _projections()


def _noise_of(spectrum: str) -> np.ndarray:
    """Standard deviations by direction, of a variance of 1."""
    variances = np.ones(_DIMENSIONS[spectrum]) if spectrum == "many" else 1 / np.arange(1, _DIMENSIONS[spectrum] + 1)
    return np.sqrt(variances / variances.sum())


def _measured(drawn: np.ndarray, gradient: np.ndarray, expected: Sequence[float]) -> GradientNoise:
    """From replicates (E, K, directions) of estimators whose expectation is that multiple of the gradient, or NaN."""
    gram, dots, p = drawn @ drawn.transpose(0, 2, 1), drawn @ gradient, np.full(_ROLLOUTS // 8, 0.5)
    names = ("PSR", "NSR", "GRPO")[: len(drawn)]
    return GradientNoise(names, np.array(expected), gram, dots, float(gradient @ gradient), p, 8, 1.0)


def _replicated(signal: float, replicates: int, rng: np.random.Generator) -> Draws:
    """The noise of NSR is 1.6 times that of PSR, and half of PSR's beside it. GRPO is PSR, its signal not known."""
    spread = _noise_of("few")
    gradient = np.full(len(spread), np.sqrt(signal / len(spread)))
    first = rng.normal(size=(replicates, len(spread))) * spread
    second = 1.6 * rng.normal(size=(replicates, len(spread))) * spread + 0.5 * first
    frame = _measured(gradient + np.stack([first, second, first]), gradient, (1.0, 1.0, np.nan)).frame()
    wide = 1.6**2 + 0.5**2
    quantities = (
        (1, "variance", _ROLLOUTS * wide),
        (1, "noise_to_signal", _ROLLOUTS * wide / signal),
        (1, "noise_ratio", wide),
        (2, "noise_to_signal", _ROLLOUTS / signal),
    )
    return [
        (over_replicates(float(row[name]), float(row[f"{name}_se"]), replicates), truth)
        for place, name, truth in quantities
        for row in [frame.iloc[place]]
    ]


def _noise() -> Iterator[Condition]:
    rows = ("variance", "noise / signal", "variance, NSR / PSR", "noise / signal where the signal is estimated (GRPO)")
    for name, signal in _SIGNALS.items():
        for replicates in (5, 8, 16, 64):
            yield Condition(
                {Kind.NOISE: [f"{row}, {name} signal" for row in rows]},
                f"{replicates} replicates",
                partial(_replicated, signal, replicates),
                replicates=0.2,
            )


def _directed(
    spectrum: str, signal: float, cosine: float, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Replicates (K, directions) whose expectation has that cosine with the gradient, and the gradient."""
    spread = _noise_of(spectrum)
    axes = np.linalg.qr(np.random.default_rng(13).normal(size=(len(spread), 2)))[0].T
    expected = np.sqrt(signal) * (cosine * axes[0] + np.sqrt(1 - cosine**2) * axes[1])
    return expected + spread * rng.normal(size=(replicates, len(spread))), np.sqrt(signal) * axes[0]


@cache
def _mean_batch_cosine(spectrum: str, signal: float) -> float:
    rng, means = np.random.default_rng(14), []
    for _ in range(_PARTS):
        drawn, gradient = _directed(spectrum, signal, 1.0, _POPULATION // _PARTS, rng)
        means.append((drawn @ gradient / np.linalg.norm(drawn, axis=1)).mean() / np.linalg.norm(gradient))
    return float(np.mean(means))


def _projected(spectrum: str, signal: float, replicates: int, rng: np.random.Generator) -> Draws:
    drawn, gradient = _directed(spectrum, signal, 1.0, replicates, rng)
    row = _measured(drawn[None], gradient, (1.0,)).frame().iloc[0]
    return [
        (mean_over_replicates(float(row[name]), float(row[f"{name}_se"]), replicates), truth)
        for name, truth in (("projection", 1.0), ("cosine_batch", _mean_batch_cosine(spectrum, signal)))
    ]


def _projections() -> Iterator[Condition]:
    for spectrum in _DIMENSIONS:
        for name, signal in _SIGNALS.items():
            where = f"{name} signal, noise in {spectrum} directions"
            for replicates in (5, 8, 16, 64):
                yield Condition(
                    {Kind.REPLICATE_MEAN: (f"projection, {where}", f"cosine of a batch, {where}")},
                    f"{replicates} replicates",
                    partial(_projected, spectrum, signal, replicates),
                    replicates=0.2,
                )
