"""Runs whose evaluations are written by hand, for the rules of entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["HandRun", "hand_run", "hand_runs"]

PROMPTS = 32
STEPS = (0, 5, 10)
# success probability of prompts (n,) at a step, from (seed, step, standard normal of each prompt)
Success = Callable[[int, int, np.ndarray], np.ndarray]


class HandRun:
    """As much of a run as claims read: its id, its status and its tables."""

    status = "complete"

    def __init__(self, run_id: str, evals: pd.DataFrame | None = None, **tables: pd.DataFrame) -> None:
        self.run_id = run_id
        self.info: dict[str, Any] = {}  # run.json
        self._tables = tables if evals is None else {"evals": evals, **tables}

    def table(self, name: str, columns: Sequence[str] | None = None, *_: Any, **__: Any) -> pd.DataFrame:
        return self._tables[name] if columns is None else self._tables[name][list(columns)]


def hand_run(name: str, seed: int, success: Success, *, steps: Sequence[int] = STEPS, **metrics: Success) -> Any:
    """A run with p from `success`, and other columns of `evals` from functions of the same form.

    The prompts are the same for every seed and method; validation and test prompts have draws of their own.
    """
    rows = []
    for step in steps:
        for split, key in (("validation", 1), ("test", 2)):
            prompts = np.random.default_rng(key).normal(size=PROMPTS)
            columns = {"p": np.clip(success(seed, step, prompts), 0.0, 1.0)}
            columns |= {column: values(seed, step, prompts) for column, values in metrics.items()}
            defaults = dict.fromkeys(
                ("effective_solutions", "mode_mass", "mode_p", "entropy_fixed", "entropy_own", "tail_mass", "n", "c"),
                np.nan,
            )
            frame = pd.DataFrame(
                {
                    "step": step,
                    "update": 4 * step,
                    "prompt_id": [f"{split}{i}" for i in range(PROMPTS)],
                    "split": split,
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "greedy_correct": False,
                    **defaults,
                    **columns,
                }
            )
            rows.append(frame)
    return HandRun(f"{name}-{seed}", pd.concat(rows, ignore_index=True))


def hand_runs(methods: dict[str, Success], seeds: int = 4, **metrics: Success) -> Any:
    """method -> seed -> run."""
    return {
        name: {seed: hand_run(name, seed, success, **metrics) for seed in range(seeds)}
        for name, success in methods.items()
    }
