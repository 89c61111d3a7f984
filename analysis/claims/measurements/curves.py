"""What entries read off the curves of runs: evaluations between updates, ratios of rollouts, where two curves cross.

All numbers are per seed or per seed and prompt; intervals are made of them elsewhere. Between two evaluations a curve
is interpolated linearly, as where runs are compared at equal Pass@1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import UsageError
from ...evaluation import get_metric
from ...evaluation.metrics import Panel
from ..comparisons import Comparison, at_steps, metric_text
from ..conjunctions import SeedValues, require
from ..paired_curves import panel_of

if TYPE_CHECKING:
    from ...records import Run
    from ..evidence import Methods

__all__ = [
    "Axis",
    "at_places",
    "averaged",
    "base_values",
    "contrast",
    "crossover",
    "last_place",
    "levels",
    "rollout_curve",
    "rollout_ratio",
]

Axis = Literal["step", "update"]
_CROSSOVER_STEPS = 8  # points for each doubling of k
_LARGEST_CROSSOVER = 12  # log₂ of the largest k that is looked at


def last_place(runs: Sequence[Run], axis: Axis) -> float:
    """The last step or update that all runs were evaluated at or after."""
    return float(min(_axis(panel_of(run), axis)[-1] for run in runs))


def at_places(run: Run, metric: str, places: Sequence[float], axis: Axis, *, split: str = "test") -> np.ndarray:
    """The metric of each prompt at some steps or updates: (places, prompts)."""
    panel = panel_of(run, split)
    values, where = panel.values(get_metric(metric)), _axis(panel, axis)
    beyond = [place for place in places if not where[0] <= place <= where[-1]]
    if beyond:
        raise UsageError(
            f"{axis}: expected places between {where[0]:g} and {where[-1]:g} in run {run.run_id}, got {beyond}; "
            "train it for longer"
        )
    return np.stack([np.interp(places, where, column) for column in values.T], axis=1)


def contrast(
    methods: Methods,
    names: Sequence[str],
    value: Callable[..., np.ndarray],
    *,
    metric: str,
    label: str,
    at: str,
) -> Comparison:
    """A number for each prompt of each seed, made of the runs of several methods with the same seed.

    Args:
        methods: The runs.
        names: Which methods; `value` gets their runs in this order.
        value: The runs of one seed -> (prompts,).
        metric: Its name.
        label: What it is.
        at: What is equal, in words.

    Raises:
        UsageError: a method has no run.
    """
    require(methods, names)
    seeds = sorted(set.intersection(*(set(methods[name]) for name in names)))
    everything = set().union(*(methods[name] for name in names))
    left_out = dict.fromkeys(sorted(everything - set(seeds)), "one of the runs is missing or diverged")
    rows = [value(*(methods[name][seed] for name in names)) for seed in seeds]
    table = np.stack(rows) if rows else np.zeros((0, 0))
    known = np.isfinite(table).all(axis=0) if rows else np.zeros(0, dtype=bool)
    return Comparison(metric, label, at, tuple(seeds), left_out, table[:, known])


def averaged(comparisons: Sequence[Comparison], label: str) -> Comparison:
    """The mean of several comparisons of the same seeds and prompts, such as Pass@k over k."""
    first = comparisons[0]
    mean = np.mean([comparison.values for comparison in comparisons], axis=0)
    return Comparison("mean", label, first.at, first.seeds, first.left_out, mean)


def levels(
    methods: Methods, method: str, metric: str, *, temperature: float = 1.0, step: int | None = None
) -> Comparison:
    """The metric itself after training, or at another step: (seeds, prompts)."""

    def value(run: Run) -> np.ndarray:
        values: np.ndarray = at_steps(run, (step,), temperature=temperature).values(get_metric(metric))[0]
        return values

    at = "at the end" if step is None else f"after {step} steps" if step else "at the base"
    return contrast(methods, (method,), value, metric=metric, label=f"{metric_text(metric)}: {method}", at=at)


def base_values(methods: Methods, metric: str, *, temperature: float = 1.0) -> Comparison:
    """The metric of the bases, over all seeds that any method has, on the prompts of the first evaluation.

    Raises UsageError where the first evaluation has no value of it.
    """
    bases = {seed: run for runs in methods.values() for seed, run in runs.items()}
    found = levels({"base": bases}, "base", metric, temperature=temperature, step=0)
    if not found.values.size:
        raise UsageError(f"metric: {metric} is missing at temperature {temperature:g} at the first evaluation")
    return found


def crossover(methods: Methods, method: str, *, temperature: float = 1.0) -> tuple[SeedValues, list[int]]:
    """log₂ of the k at which Pass@k of the trained policy falls below that of its base, seed by seed.

    Pass@k is exact at every real k: the mean over prompts of 1 − (1 − p)^k. The first k ≥ 1 from which on it lies
    below, interpolated between eight points for each doubling of k; looked for up to k = 4096.

    Returns:
        The seeds that cross, and those that do not: their Pass@k is on one side of the base at all k.
    """
    found: dict[int, float] = {}
    never = []
    for seed, run in sorted(methods[method].items()):
        before, after = at_steps(run, (0, None), temperature=temperature).values(get_metric("pass@1"))
        place = _first_fall(before, after)
        if place is None:
            never.append(seed)
        else:
            found[seed] = place
    label = f"log₂ of the k where Pass@k of {method} falls below the base"
    values = np.array(list(found.values()))
    return SeedValues(label, "at the end", tuple(found), values, dict.fromkeys(never, "no crossing")), never


def _first_fall(before: np.ndarray, after: np.ndarray) -> float | None:
    exponents = np.arange(_LARGEST_CROSSOVER * _CROSSOVER_STEPS + 1) / _CROSSOVER_STEPS
    with np.errstate(divide="ignore"):
        fails = [np.exp(np.outer(2.0**exponents, np.log1p(-p))).mean(axis=1) for p in (before, after)]
    gain = fails[0] - fails[1]
    places = np.flatnonzero((gain[:-1] > 0) & (gain[1:] < 0))
    if not len(places):
        return None
    i = int(places[0])
    return float(exponents[i] + gain[i] / (gain[i] - gain[i + 1]) / _CROSSOVER_STEPS)


def rollout_ratio(
    methods: Methods, first: str, second: str, column: str, axis: Axis, *, share: float = 0.25
) -> SeedValues:
    """`first` − `second` in a ratio of the training rollouts, over the last part of their common steps or updates.

    Args:
        methods: The runs.
        first: A method.
        second: Another.
        column: Of the table `steps`: correct_ratio or fully_solved_ratio.
        axis: What is equal. A batch of rollouts is filed under the updates that its policy had had.
        share: Of the common range that is averaged over, its end; one batch is too noisy.
    """
    require(methods, (first, second))
    seeds = sorted(set(methods[first]) & set(methods[second]))
    values = []
    for seed in seeds:
        curves = [_rollout_curve(methods[name][seed], column, axis) for name in (first, second)]
        end = min(where[-1] for where, _ in curves)
        places = np.linspace((1 - share) * end, end, 50)
        one, other = (float(np.interp(places, where, ratio).mean()) for where, ratio in curves)
        values.append(one - other)
    missing = sorted(set(methods[first]) ^ set(methods[second]))
    text = column.replace("_", " ")
    at = f"last {share:.0%} of equal {axis}s"
    left_out: Mapping[int, str] = dict.fromkeys(missing, "one of the two runs is missing or diverged")
    return SeedValues(f"{text} of rollouts: {first} − {second}", at, tuple(seeds), np.array(values), left_out)


def rollout_curve(run: Run, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, updates made before each of them, and the ratio of its rollouts."""
    steps = run.table("steps").sort_values("step")
    if steps.empty:
        raise UsageError(f"run: expected rows in the table steps of run {run.run_id}, got none; train it for a step")
    made = steps["n_updates"].to_numpy(dtype=np.float64)
    return steps["step"].to_numpy(dtype=np.float64), np.cumsum(made) - made, steps[column].to_numpy(dtype=np.float64)


def _rollout_curve(run: Run, column: str, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    steps, updates, ratio = rollout_curve(run, column)
    return (updates if axis == "update" else steps), ratio


def _axis(panel: Panel, axis: Axis) -> np.ndarray:
    return (panel.updates if axis == "update" else panel.steps).astype(np.float64)
