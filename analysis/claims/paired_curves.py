"""Two runs of a seed at equal steps, updates or Pass@1, prompt by prompt: the values of `evaluation.matched` alone.

Entries compare the same runs many times, in many metrics. Here each run's evaluations are read once, and no intervals
over prompts are made, which the ledger does not use: its unit is the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..evaluation import get_metric
from ..evaluation.first_crossing import first_crossing
from ..evaluation.matching import FRACTIONS, At, default_levels
from ..evaluation.metrics import EXACT_P, Panel, evals_of
from ..evaluation.sampling_params import SamplingParams

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["paired_values", "panel_of"]

_PANELS, _VALUES = 512, 4096  # kept: splits and temperatures of runs, and metrics of these


@lru_cache(maxsize=_PANELS)
def panel_of(run: Run, split: str = "test", temperature: float = 1.0) -> Panel:
    """All evaluations of a finished run over the prompts that they share, without truncation.

    Raises:
        UsageError: nothing was evaluated there.
    """
    evals = evals_of(run)
    rows = SamplingParams(temperature, 0, 1.0).rows(evals[evals["split"] == split])
    if rows.empty:
        raise UsageError(
            f"eval: expected {split} prompts at temperature {temperature:g} without truncation in run "
            f"{run.run_id}, got none; eval.temperatures sets them"
        )
    return Panel.of(rows)


def paired_values(
    first: Run, second: Run, metrics: Sequence[str], at: At, *, temperature: float = 1.0
) -> dict[str, np.ndarray]:
    """Of each test prompt, the metric of `first` less that of `second`, mean over the default levels of `matched`.

    Args:
        first: A run.
        second: Another.
        metrics: Metrics whose values over prompts are joined by their mean.
        at: What is equal.
        temperature: Of the metrics; Pass@1 is matched at temperature 1.

    Returns:
        metric -> (prompts,).

    Raises:
        UsageError: a metric is missing, or the two runs have no prompt in common.
        EmptyRangeError: no level of Pass@1 lies on both curves.
    """
    pair = {"first": first, "second": second}
    for run in pair.values():
        steps = [panel_of(run, "validation").steps.tolist(), panel_of(run, "test", temperature).steps.tolist()]
        if steps[0] != steps[1]:
            raise UsageError(
                f"runs: expected validation and test prompts evaluated at the same steps, got {steps[0]} and "
                f"{steps[1]} in run {run.run_id}"
            )
    axes = {name: _axis(run, at, _common(first, second, "validation", 1.0)) for name, run in pair.items()}
    levels = default_levels(axes, at, FRACTIONS)
    places = {name: [first_crossing(axis, level) for level in levels] for name, axis in axes.items()}
    kept = _common(first, second, "test", temperature)
    found = {}
    for metric in metrics:
        by_level = []
        curves = {name: _values(run, "test", temperature, metric) for name, run in pair.items()}
        for name, run in pair.items():
            if np.isnan(curves[name]).all(axis=1).any():
                raise UsageError(f"metric: {metric} is missing at temperature {temperature:g} in run {run.run_id}")
        for i in range(len(levels)):
            at_level = []
            for name, run in pair.items():
                place = places[name][i]
                assert place is not None  # the levels lie on both curves
                at_level.append(place.of(curves[name])[_indices(run, kept, "test", temperature)])
            by_level.append(at_level[0] - at_level[1])
        found[metric] = np.mean(by_level, axis=0)
    return found


def _axis(run: Run, at: At, kept: tuple[str, ...]) -> np.ndarray:
    panel = panel_of(run, "validation", 1.0)
    if at == "pass@1":
        exact: np.ndarray = _values(run, "validation", 1.0, EXACT_P.name)[:, _indices(run, kept, "validation", 1.0)]
        if np.isnan(exact).any():
            raise UsageError(
                f"runs: expected exact success probabilities p of the validation prompts in run {run.run_id}, got "
                "missing ones; equal Pass@1 needs a task whose correct responses are enumerated"
            )
        return exact.mean(axis=1)
    return (panel.updates if at == "update" else panel.steps).astype(np.float64)


def _common(first: Run, second: Run, split: str, temperature: float) -> tuple[str, ...]:
    one, other = (panel_of(run, split, temperature).prompt_ids for run in (first, second))
    if one == other:
        return one
    if kept := tuple(sorted(set(one) & set(other))):
        return kept
    raise UsageError(
        f"runs: expected {split} prompts in common, got none between {first.run_id} and {second.run_id}; evaluate the "
        "same prompts"
    )


def _indices(run: Run, kept: tuple[str, ...], split: str, temperature: float) -> slice | list[int]:
    known = panel_of(run, split, temperature).prompt_ids
    if known == kept:
        return slice(None)
    index = {prompt: i for i, prompt in enumerate(known)}
    return [index[prompt] for prompt in kept]


@lru_cache(maxsize=_VALUES)
def _values(run: Run, split: str, temperature: float, metric: str) -> np.ndarray:
    panel = panel_of(run, split, temperature)
    return panel.values(EXACT_P if metric == EXACT_P.name else get_metric(metric))
