"""Two methods, or a method and its start, compared over seeds and prompts at equal steps, updates or Pass@1.

The statistics of every entry that reads evaluations. A comparison is a table of values (seeds, prompts): of each seed,
the metric of the first method less that of the second on each test prompt. Its mean has the interval of
`analysis.evaluation.crossed`.

At equal Pass@1 both runs of a seed are matched on their *validation* prompts at 25, 50, 75 and 100% of their common
range, first crossing, and the value is the mean over these four levels: a rule fixed before any run. A seed whose runs
have no common range is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from ..errors import UsageError
from ..evaluation import get_metric
from ..evaluation.crossed import CrossedMean, crossed_mean
from ..evaluation.influence import few
from ..evaluation.interval_kinds import LEAST_CROSSED_SEEDS
from ..evaluation.matching import EmptyRangeError
from ..evaluation.metrics import Panel, evals_of
from ..evaluation.sampling_params import SamplingParams
from ..records import Run
from .claim import Effect
from .evidence import Methods
from .paired_curves import paired_values

__all__ = ["MATCHINGS", "Comparison", "Matching", "at_steps", "compare", "since_start"]

Matching = Literal["step", "update", "pass@1"]
MATCHINGS: tuple[Matching, ...] = get_args(Matching)
MATCHING_TEXT = {"step": "equal steps", "update": "equal updates", "pass@1": "equal Pass@1"}


@dataclass(frozen=True)
class Comparison:
    """A metric of one method less that of another (or of its start).

    Attributes:
        metric: Its name, as in `analysis.evaluation.METRICS`.
        label: What is compared.
        at: What is equal, in words.
        seeds: The seeds that have a value.
        left_out: Seeds without one, with the reason.
        values: (seeds, prompts).
    """

    metric: str
    label: str
    at: str
    seeds: tuple[int, ...]
    left_out: Mapping[int, str]
    values: np.ndarray

    @property
    def mean(self) -> CrossedMean | None:
        """Over seeds and prompts; None with fewer than two seeds."""
        return crossed_mean(self.values) if len(self.seeds) >= 2 else None

    def effect(self, *, condition: str, unit: str = "", null: float = 0.0, margin: float | None = None) -> Effect:
        """For a decision and its figure."""
        label = f"{self.label}, {self.at}"
        mean = self.mean
        if mean is None:
            value = float(self.values.mean()) if self.values.size else float("nan")
            lacking = few(len(self.seeds), LEAST_CROSSED_SEEDS, "seeds")
            reason = "; ".join([lacking, *dict.fromkeys(self.left_out.values())])
            return Effect(label, value, unit=unit, n=len(self.seeds), condition=condition, null=null, reason=reason)
        found = mean.interval()
        return Effect(
            label,
            mean.estimate,
            found.low,
            found.high,
            unit,
            len(self.seeds),
            condition=condition,
            null=null,
            margin=margin,
            kind=str(found.kind),
            reason=found.reason,
        )


def compare(
    methods: Methods,
    first: str,
    second: str,
    metrics: Sequence[str],
    at: Matching,
    *,
    temperature: float = 1.0,
) -> dict[str, Comparison]:
    """`first` − `second` in each metric, over the seeds that both have.

    Args:
        methods: The runs, as `Evidence.methods` gives them.
        first: A method.
        second: Another.
        metrics: Names of metrics whose values over prompts are joined by their mean.
        at: What is equal. "step" and "update" compare at the last common one.
        temperature: Of the metrics; Pass@1 is matched at temperature 1.

    Returns:
        metric -> comparison.

    Raises:
        UsageError: a method has no run, or a metric is not a mean over prompts.
    """
    for method in (first, second):
        if not methods.get(method):
            raise UsageError(f"methods: expected a run of {method}, got {', '.join(methods) or 'none'}")
    if others := [name for name in metrics if get_metric(name).combine != "mean"]:
        raise UsageError(f"metrics: expected means over prompts, got {', '.join(others)}; use its logarithm")
    rows: dict[str, dict[int, np.ndarray]] = {metric: {} for metric in metrics}
    left_out: dict[int, str] = {}
    for seed in sorted(set(methods[first]) & set(methods[second])):
        try:
            found = paired_values(methods[first][seed], methods[second][seed], metrics, at, temperature=temperature)
        except EmptyRangeError:
            left_out[seed] = "the two runs have no Pass@1 in common after the start"
            continue
        for metric in metrics:
            rows[metric][seed] = found[metric]
    missing = (set(methods[first]) ^ set(methods[second])) - left_out.keys()
    left_out |= dict.fromkeys(sorted(missing), "one of the two runs is missing or diverged")
    label = f"{first} − {second}"
    return {
        metric: _comparison(metric, f"{metric_text(metric)}: {label}", MATCHING_TEXT[at], by_seed, left_out)
        for metric, by_seed in rows.items()
    }


def since_start(
    methods: Methods, method: str, metrics: Sequence[str], *, step: int | None = None, temperature: float = 1.0
) -> dict[str, Comparison]:
    """The policy after `step` steps less the base that it started from, on the test prompts of both evaluations.

    Args:
        methods: The runs.
        method: Which method.
        metrics: Names of metrics whose values over prompts are joined by their mean.
        step: Of the evaluation; unset: the last.
        temperature: Of the metrics.
    """
    rows: dict[str, dict[int, np.ndarray]] = {metric: {} for metric in metrics}
    for seed, run in sorted(methods[method].items()):
        panel = at_steps(run, (0, step), temperature=temperature)
        for metric in metrics:
            before, after = panel.values(get_metric(metric))
            rows[metric][seed] = after - before
    at = "at the end" if step is None else f"after {step} steps"
    return {
        metric: _comparison(metric, f"{metric_text(metric)}: {method} − base", at, by_seed, {})
        for metric, by_seed in rows.items()
    }


def at_steps(run: Run, steps: Sequence[int | None], *, temperature: float = 1.0, split: str = "test") -> Panel:
    """The evaluations of a run at some steps (None: the last), over the prompts that all of them share.

    Raises:
        UsageError: the run was not evaluated at one of these steps.
    """
    return _at_steps(run, tuple(steps), temperature, split)


@lru_cache(maxsize=1024)  # entries ask for the same evaluations in many metrics
def _at_steps(run: Run, steps: tuple[int | None, ...], temperature: float, split: str) -> Panel:
    evals = evals_of(run)
    evals = SamplingParams(temperature, 0, 1.0).rows(evals[evals["split"] == split])
    known = sorted(set(evals["step"]))
    wanted = [known[-1] if step is None else step for step in steps]
    if missing := [step for step in wanted if step not in known]:
        raise UsageError(
            f"step: expected evaluations at steps {missing}, got {known} in run {run.run_id}; eval.every sets them"
        )
    return Panel.of(evals[evals["step"].isin(wanted)])


def metric_text(metric: str) -> str:
    """What figures and tables call a metric."""
    kind, _, k = metric.partition("@")
    if kind == "pass":
        return f"Pass@{k}"
    return _METRIC_TEXT.get(metric, metric.replace("_", " "))


_METRIC_TEXT = {
    "entropy_fixed": "entropy on fixed prefixes",
    "entropy_own": "entropy on own responses",
    "log_effective_solutions": "log effective solutions",
    "greedy_accuracy": "greedy accuracy",
    "tail_mass": "mass beyond rank 16",
}


def _comparison(
    metric: str, label: str, at: str, by_seed: Mapping[int, np.ndarray], left_out: Mapping[int, str]
) -> Comparison:
    """Prompts that lack a value in some seed are left out of all."""
    seeds = tuple(sorted(by_seed))
    table = np.stack([by_seed[seed] for seed in seeds]) if seeds else np.zeros((0, 0))
    known = np.isfinite(table).all(axis=0) if table.size else np.zeros(0, dtype=bool)
    return Comparison(metric, label, at, seeds, dict(left_out), table[:, known])
