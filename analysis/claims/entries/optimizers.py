"""The entry about SGD in the place of Adam: F6."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..claim import Claim, Decision, Effect
from ..comparisons import MATCHING_TEXT, MATCHINGS, compare
from ..conditions import combined
from ..conjunctions import Part, SeedValues, all_of, counting_diverged, together
from ..evidence import Evidence, Methods
from ..rules import equivalent
from ..study import GRPO, METHODS, NSR, PSR, W_REINFORCE, Study
from .kept_diversity import last_success

__all__ = ["CLAIMS", "final_study", "tuning_studies"]

_OBJECTIVES = (PSR, NSR, W_REINFORCE, GRPO)
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer.name": "adamw"},
    "SGD": {"optimizer.name": "sgd", "optimizer.max_grad_norm": "unset"},
}
_RATES = {"AdamW": 1.5e-4, "SGD": 0.06}
_TIMES = (0.5, 1.0, 2.0)  # three rates for every objective with either optimiser
_TUNED_ON, _TUNING_SEEDS = 100, 2
_MARGINS = {"pass@1": 0.02, "pass@64": 0.02, "entropy_fixed": 0.05}
_FEW = -1.0  # log₁₀: a tenth as many; the paper has a thousandth


def _method(objective: str, optimizer: str) -> str:
    return f"{objective}, {optimizer}"


_CELLS = tuple((objective, optimizer) for objective in _OBJECTIVES for optimizer in _OPTIMIZERS)


def _fields(objective: str, optimizer: str, times: float) -> dict[str, Any]:
    return {**METHODS[objective], **_OPTIMIZERS[optimizer], "optimizer.lr": _RATES[optimizer] * times}


def tuning_studies() -> tuple[Study, ...]:
    """Every objective with either optimiser at three rates, seeds 100 and 101, for half as many steps as the test."""
    return tuple(
        Study(
            f"path, {times:g} times the rate of each optimiser",
            "default",
            {_method(*cell): _fields(*cell, times) for cell in _CELLS},
            {"steps": 10, "eval.every": 10},
            _TUNING_SEEDS,
            _TUNED_ON,
        )
        for times in _TIMES
    )


def _best_times(evidence: Evidence) -> dict[str, float]:
    """method -> the multiple of its rate with the greatest validation Pass@1 at the last step; diverged runs: 0."""
    scores: dict[str, dict[float, float]] = {}
    for times, study in zip(_TIMES, tuning_studies(), strict=True):
        for name, runs in evidence.methods(study).items():
            scores.setdefault(name, {})[times] = sum(map(last_success, runs.values())) / study.seeds
    return {name: max(found, key=lambda times: found[times]) for name, found in scores.items()}


def final_study(evidence: Evidence) -> tuple[Study, ...]:
    """Each method at its best rate, with its final weights kept."""
    best = _best_times(evidence)
    methods = {_method(*cell): _fields(*cell, best[_method(*cell)]) for cell in _CELLS}
    values = {"steps": 20, "eval.every": 4, "record.checkpoint": True}
    return (Study("path, regime B", "default", methods, values, seeds=4),)


def _sgd_does_as_well(methods: Methods, name: str, objective: str) -> Mapping[str, Decision]:
    """SGD less AdamW within the margins. At equal Pass@1 that metric is equal by construction."""
    found = {}
    for at in MATCHINGS:
        metrics = [metric for metric in _MARGINS if at != "pass@1" or metric != "pass@1"]
        gaps = compare(methods, _method(objective, "SGD"), _method(objective, "AdamW"), metrics, at)
        condition = f"{name}, {objective}, {MATCHING_TEXT[at]}"
        parts = {}
        for metric, gap in gaps.items():
            unit = "nats" if metric == "entropy_fixed" else ""
            effect = gap.effect(condition=condition, unit=unit, margin=_MARGINS[metric])
            parts[metric] = equivalent(effect, _MARGINS[metric], gap)
        found[condition] = combined(parts)
    return found


def _few_change(methods: Methods, name: str, objective: str, table: dict[str, list[Any]]) -> Decision:
    """log₁₀ of the share of parameters that SGD changes in bfloat16 over that of AdamW, filling the table."""
    from ..measurements.changed_parameters import changed_in

    logs: dict[str, dict[int, float]] = {}
    for optimizer in _OPTIMIZERS:
        logs[optimizer] = {}
        for seed, run in sorted(methods[_method(objective, optimizer)].items()):
            found = changed_in(run)
            logs[optimizer][seed] = math.log10(max(found.bfloat16, 1 / found.parameters))
            row = (objective, optimizer, seed, found.float32, found.bfloat16, found.parameters)
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    seeds = tuple(seed for seed in logs["SGD"] if seed in logs["AdamW"])
    missing = dict.fromkeys(sorted(set(logs["SGD"]) ^ set(logs["AdamW"])), "one of the runs diverged")
    gaps = np.array([logs["SGD"][seed] - logs["AdamW"][seed] for seed in seeds])
    label = f"log₁₀ of the share of parameters changed in bfloat16: {objective}, SGD − AdamW"
    part = Part("SGD changes few parameters", SeedValues(label, "at the end", seeds, gaps, missing), _FEW, above=False)
    return all_of([part], f"{name}, {objective}, parameters")


def _f6(evidence: Evidence) -> Decision:
    (study,) = final_study(evidence)
    methods, diverged = evidence.methods(study), evidence.diverged(study)
    columns = ("objective", "optimizer", "seed", "float32", "bfloat16", "parameters")
    table: dict[str, list[Any]] = {name: [] for name in columns}
    parts: dict[str, Decision] = {}
    for objective in _OBJECTIVES:
        pair = [_method(objective, optimizer) for optimizer in _OPTIMIZERS]
        if not all(methods[name] for name in pair):
            lost = ", ".join(name for name in pair if not methods[name])
            parts[objective] = Decision("undecided", f"All runs of {lost} diverged.", missing="runs that end")
            continue
        found = dict(_sgd_does_as_well(methods, study.name, objective))
        found[f"{study.name}, {objective}, parameters"] = _few_change(methods, study.name, objective, table)
        lost_runs = len(diverged.get(_method(objective, "SGD"), ()))
        for condition, decision in found.items():
            parts[condition] = counting_diverged(decision, _method(objective, "SGD"), lost_runs, study.seeds)
    joined = together({name: replace(part, tables={}) for name, part in parts.items()})
    rates = {"method": list(study.methods), "rate": [fields["optimizer.lr"] for fields in study.methods.values()]}
    return replace(joined, effects=(*joined.effects, *_shares(table)), tables={"parameters": table, "rates": rates})


def _shares(table: Mapping[str, list[Any]]) -> tuple[Effect, ...]:
    """The mean shares of changed parameters, with t intervals over the seeds."""
    from ...evaluation import interval

    effects = []
    for objective, optimizer in _CELLS:
        for dtype in ("float32", "bfloat16"):
            rows = zip(table["objective"], table["optimizer"], table[dtype], strict=True)
            shares = [value for name, used, value in rows if (name, used) == (objective, optimizer)]
            if len(shares) >= 2:
                mean = interval(shares, over="seeds")
                label = f"share of parameters that differ from the base in {dtype}"
                ends = (mean.estimate, mean.low, mean.high)
                where = _method(objective, optimizer)
                effects.append(Effect(label, *ends, n=len(shares), condition=where, kind=str(mean.kind)))
    return tuple(effects)


CLAIMS = (
    Claim(
        id="F6",
        family="field",
        title="Adam is not needed; SGD changes few parameters",
        statement="With tuned rates SGD without momentum trains as well as AdamW, and changes far fewer parameters.",
        source="2602.07729, seen as an abstract",
        hypothesis="After tuning both alike, Pass@1, Pass@64 and entropy differ by less than the margins for every "
        "objective, and SGD changes at most a tenth as many bfloat16 weights.",
        statistic="Exact Pass@1 and Pass@64 on test prompts and entropy on fixed prefixes, SGD less AdamW, paired by "
        "seed. The share of parameters that differ from the base, in float32 and after both are rounded to bfloat16; "
        "the logarithm of SGD's bfloat16 share over AdamW's.",
        margin="±0.02 in Pass@1 and Pass@64, ±0.05 nats in entropy, a tenth of the parameters",
        rule="Two one-sided tests: holds where all intervals lie within their margins and that of the ratio of changed "
        "parameters lies below a tenth; fails where all lie outside; depends on objective, metric or matching where "
        "some do. Runs of SGD that diverged count against it.",
        conditions="path, regime B, PSR, NSR, W-REINFORCE and GRPO, 20 steps, 4 seeds with a base each; equal steps, "
        "updates and Pass@1. Each objective with each optimiser has three rates (half, one and two times 1.5e-4 or "
        "0.06), chosen by validation Pass@1 after 10 steps on seeds 100 and 101. Parameters and updates are float32.",
        practice="Try SGD before you pay for Adam's state. A share of unchanged bfloat16 weights says how small the "
        "steps were, not that most parameters had no gradient.",
        decide=_f6,
        studies=tuning_studies(),
        seconds=10.0,
        later=(final_study,),
        later_seconds=500.0,
    ),
)
