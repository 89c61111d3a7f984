"""Runs made by hand: evaluations on a line, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)  # what is read of a run is kept by the run itself
class FakeRun:
    """What the entries read of a run."""

    tables: dict[str, pd.DataFrame]
    run_id: str = "made by hand"

    def table(self, name: str) -> Any:
        """A table of the records."""
        return self.tables[name]


def straight_run(
    gain: float, entropy_slope: float, *, steps: int = 8, every: int = 2, updates: int = 1, start: float = 0.4
) -> FakeRun:
    """Pass@1 rises by `gain` over the run from `start`, and entropy by `entropy_slope` per unit of Pass@1 gained.

    Four prompts a split, whose p are spread around the mean and rise alike.
    """
    rows = [
        {
            "step": step,
            "update": updates * step,
            "prompt_id": f"{split}{i}",
            "split": split,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "p": start + (i - 1.5) * 0.1 + gain * step / steps,
            "n": None,
            "c": None,
            "effective_solutions": 5.0,
            "entropy_fixed": 1.0 + entropy_slope * gain * step / steps,
            "entropy_own": None,
            "greedy_correct": i < 2,
            "tail_mass": 0.01,
            "mode_mass": None,
            "mode_p": None,
        }
        for step in range(0, steps + 1, every)
        for split in ("validation", "test")
        for i in range(4)
    ]
    return FakeRun({"evals": pd.DataFrame(rows)})


def noise_rows(ratios: dict[tuple[str, int], tuple[str, float, float]]) -> pd.DataFrame:
    """Rows of `noise_ratios` for NSR: (base, seed) -> task, p and ratio."""
    rows = [
        {"base": base, "seed": seed, "task": task, "estimator": "NSR", "p": p, "noise_ratio": ratio}
        for (base, seed), (task, p, ratio) in ratios.items()
    ]
    return pd.DataFrame(rows).assign(noise_ratio_se=lambda frame: 0.05 * frame["noise_ratio"])


def around(mean: float, seeds: int, spread: float, seed: int) -> np.ndarray:
    """Values of seeds with exactly this mean."""
    values = np.random.default_rng(seed).normal(size=seeds) * spread
    found: np.ndarray = values - values.mean() + mean
    return found
