"""A mean over seeds and prompts, both of them draws: its standard error, interval, tests and power.

Values Y_sx of seed s (a training run, with a base of its own) on prompt x, all seeds on the same prompts:

    Y_sx = μ + a_s + b_x + e_sx,    Var(Ȳ) = (MS_a + MS_b − MS_e)/(n·m)

with n seeds, m prompts, and the mean squares MS_a = m·Σ(Ȳ_s − Ȳ)²/(n − 1), MS_b = n·Σ(Ȳ_x − Ȳ)²/(m − 1) and that of the
residuals. The degrees of freedom are Satterthwaite's (1946, Biometrics Bull. 2:110). The variance is never taken below
that of the seeds alone, MS_a/(n·m), which is Student's t over seeds. How often the interval covers is in
docs/intervals.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from .influence import few
from .interval_kinds import LEAST_CROSSED_SEEDS, Kind
from .intervals import Interval, no_interval, student_quantile

__all__ = ["CrossedMean", "crossed_mean", "holm"]

_POWER_FROM, _POWER_TO = 2, 10_000  # seeds among which the least sufficient number is looked for


@dataclass(frozen=True)
class CrossedMean:
    """The mean over seeds and prompts.

    Attributes:
        estimate: The mean.
        error: Its standard error.
        freedom: Degrees of freedom of the error.
        seeds: Number of seeds.
        prompts: Number of prompts.
    """

    estimate: float
    error: float
    freedom: float
    seeds: int
    prompts: int

    def interval(self, level: float = 0.95) -> Interval:
        """Student's interval; none below `LEAST_CROSSED_SEEDS` seeds."""
        if self.seeds < LEAST_CROSSED_SEEDS:
            return no_interval(self.estimate, few(self.seeds, LEAST_CROSSED_SEEDS, "seeds"), Kind.SEEDS_AND_PROMPTS)
        half = student_quantile(self.freedom, level) * self.error
        return Interval(self.estimate, self.estimate - half, self.estimate + half, Kind.SEEDS_AND_PROMPTS)

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of the mean being `null`."""
        from scipy.special import stdtr

        if self.error == 0:
            return 1.0 if self.estimate == null else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.estimate - null) / self.error))

    def equivalence_p(self, margin: float) -> float:
        """p of two one-sided tests that the mean lies within (−margin, margin) (Schuirmann 1987).

        The greater of the p of mean ≤ −margin and that of mean ≥ margin.
        """
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if abs(self.estimate) < margin else 1.0
        nearest = (margin - abs(self.estimate)) / self.error
        return float(stdtr(self.freedom, -nearest))

    def seeds_for(self, bound: float, level: float = 0.95) -> int | None:
        """About how many seeds would put `bound` outside the interval, were estimate and spread to stay; None: no
        number below ten thousand, as where the estimate is the bound or prompts limit it."""
        distance = abs(self.estimate - bound)
        for n in np.unique(np.geomspace(_POWER_FROM, _POWER_TO, 200).astype(int)):
            if n <= self.seeds:
                continue
            if student_quantile(n - 1, level) * self.error * math.sqrt(self.seeds / n) < distance:
                return int(n)
        return None


def crossed_mean(values: np.ndarray | Sequence[Sequence[float]]) -> CrossedMean:
    """The mean of values (seeds, prompts), all of them finite.

    Raises:
        UsageError: another shape, fewer than two seeds, or values that are not finite.

    Example:
        >>> found = crossed_mean([[0.1, 0.3], [0.2, 0.4], [0.1, 0.4]])
        >>> round(found.estimate, 3), found.seeds, found.prompts
        (0.25, 3, 2)
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 2 or data.shape[0] < 2 or data.shape[1] < 1 or not np.isfinite(data).all():
        raise UsageError(
            f"values: expected finite numbers (seeds, prompts) of at least 2 seeds, got shape {data.shape} with "
            f"{int((~np.isfinite(data)).sum())} that are not finite"
        )
    n, m = data.shape
    mean = float(data.mean())
    by_seed, by_prompt = data.mean(1), data.mean(0)
    of_seeds = m * float(((by_seed - mean) ** 2).sum()) / (n - 1)
    alone = CrossedMean(mean, math.sqrt(of_seeds / (n * m)), n - 1, n, m)
    if m < 2:
        return alone
    of_prompts = n * float(((by_prompt - mean) ** 2).sum()) / (m - 1)
    residuals = data - by_seed[:, None] - by_prompt + mean
    rest = float((residuals**2).sum()) / ((n - 1) * (m - 1))
    total = of_seeds + of_prompts - rest
    if total <= of_seeds:
        return alone
    terms = of_seeds**2 / (n - 1) + of_prompts**2 / (m - 1) + rest**2 / ((n - 1) * (m - 1))
    return CrossedMean(mean, math.sqrt(total / (n * m)), total**2 / terms, n, m)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method (1979, Scand. J. Statist. 6:65), in the given order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    count, running = len(order), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (count - rank) * float(p_values[index])))
        adjusted[index] = running
    return adjusted
