"""From replicates of gradient estimators to variances, projections and cosines, with standard errors.

A replicate k is one independent batch of n rollouts, g_k the estimate made from it. All quantities are functions of the
inner products ⟨g_j, g_k⟩ and ⟨g_k, ∇p⟩ alone. With hats for unbiased estimates over K replicates:

    ‖E g‖²            Σ_{j≠k} ⟨g_j, g_k⟩ / (K(K − 1)), free of the noise that ‖mean g‖² contains
    variance          n·Σ_k ‖g_k − mean g‖² / (K − 1) = n·(mean ‖g_k‖² − ‖E g‖²ˆ)
    distance          n·mean_k ‖g_k − a∇p‖², for estimators whose expectation on-policy is a∇p: variance and any bias
    projection        mean_k ⟨g_k, ∇p⟩ / ‖∇p‖²: 1 for PSR and NSR
    signal            a²‖∇p‖²; for GRPO, and where rollouts are drawn from a distribution that is not differentiated,
                      (Σ_{j≠k} ⟨g_j, ∇p⟩⟨g_k, ∇p⟩ / (K(K − 1))) / ‖∇p‖²
    noise_to_signal   variance / signal
    cosine            of the expectation: mean_k ⟨g_k, ∇p⟩ / (‖∇p‖·√‖E g‖²ˆ); a ratio, biased by O(1/K)
    cosine_batch      of one batch of n rollouts: mean_k ⟨g_k, ∇p⟩ / (‖∇p‖·‖g_k‖), 0 where g_k = 0

Standard errors are those of the jackknife over replicates; ratios of two estimators use the same rollouts for both, so
that theirs are paired. They are conditional on the prompts: other prompts have other variances. Intervals are made from
them by `evaluation.intervals.over_replicates` and `mean_over_replicates`. `cosine` has none: its jackknife errors are
far too small where there is little signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.short_repr import short_repr

__all__ = ["LEAST_REPLICATES", "GradientNoise"]

LEAST_REPLICATES = 3  # the jackknife leaves one out, and a variance needs two

_Values = dict[str, np.ndarray]


@short_repr
@dataclass(frozen=True, eq=False)
class GradientNoise:
    """The inner products of one measurement; `frame()` gives what follows from them.

    `expected` is a, the factor of ∇p in an estimator's expectation on-policy, NaN where that is not a multiple of ∇p;
    `on_policy` says whether the rollouts were drawn from the distribution that is differentiated.
    """

    estimators: tuple[str, ...]  # E names
    expected: np.ndarray  # (E,)
    gram: np.ndarray  # (E, K, K): ⟨g_j, g_k⟩
    dots: np.ndarray  # (E, K): ⟨g_k, ∇p⟩
    gradient_sq: float  # ‖∇p‖², ∇p the mean over prompts
    p: np.ndarray  # (prompts,): exact success probability of each
    group_size: int
    temperature: float
    on_policy: bool = True

    @property
    def replicates(self) -> int:
        return self.dots.shape[1]

    @property
    def rollouts(self) -> int:
        """Of one replicate: prompts × group size."""
        return len(self.p) * self.group_size

    def frame(self) -> pd.DataFrame:
        """One row an estimator: what was measured, and each quantity with its standard error, `<name>_se`.

        `noise_ratio` is `noise_to_signal` over that of the first estimator, hence how many times its rollouts this
        one needs for an estimate as good; for NSR beside PSR the ratio of their variances. NaN where a quantity has no
        value: where ∇p = 0, where nothing was drawn that an estimator looks at, and `expected` and `distance` of GRPO.
        """
        every = np.arange(self.replicates)
        whole = self._values(every)
        without = [self._values(np.delete(every, k)) for k in every]
        columns: _Values = {}
        for name, values in whole.items():
            left_out = np.stack([left[name] for left in without])
            spread = np.square(left_out - left_out.mean(0)).sum(0)
            columns |= {name: values, f"{name}_se": np.sqrt((1 - 1 / self.replicates) * spread)}
        about = {
            "estimator": self.estimators,
            "p": self.p.mean(),
            "gradient_norm": self.gradient_sq**0.5,
            "prompts": len(self.p),
            "group_size": self.group_size,
            "replicates": self.replicates,
            "temperature": self.temperature,
            "expected": self.expected,
        }
        return pd.DataFrame(about | columns)

    @np.errstate(divide="ignore", invalid="ignore")
    def _values(self, replicates: np.ndarray) -> _Values:
        """Each quantity (E,) from some of the replicates."""
        gram, dots = self.gram[:, replicates[:, None], replicates], self.dots[:, replicates]
        squares = np.diagonal(gram, axis1=1, axis2=2)
        pairs = len(replicates) * (len(replicates) - 1)
        mean_sq = (gram.sum((1, 2)) - squares.sum(1)) / pairs
        variance = self.rollouts * (squares.mean(1) - mean_sq)
        known = self.expected**2 * self.gradient_sq
        along = (dots.sum(1) ** 2 - np.square(dots).sum(1)) / pairs / self.gradient_sq
        noise_to_signal = variance / (np.where(np.isnan(known), along, known) if self.on_policy else along)
        norm = self.gradient_sq**0.5
        values = {
            "projection": dots.mean(1) / self.gradient_sq,
            "variance": variance,
            "distance": self.rollouts * (squares.mean(1) - 2 * self.expected * dots.mean(1) + known),
            "noise_to_signal": noise_to_signal,
            "noise_ratio": noise_to_signal / noise_to_signal[0],
            "cosine": dots.mean(1) / (norm * np.sqrt(mean_sq)),
            "cosine_batch": np.where(squares > 0, dots / np.sqrt(squares), 0.0).mean(1) / norm,
        }
        return {name: np.where(np.isfinite(value), value, np.nan) for name, value in values.items()}
