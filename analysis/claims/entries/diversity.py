"""Entry F7: whether training narrows the distribution over correct responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError
from ..claim import Claim
from ..comparisons import MATCHINGS, compare, since_start
from ..conjunctions import Part, SeedValues, all_of, judged, together
from ..decision import Decision
from ..evidence import Evidence, Methods
from ..studies import MAIN, ONE_SGD_UPDATE
from ..study import GRPO, METHODS, NSR, PSR, Study

if TYPE_CHECKING:
    from ..measurements.correct_responses import Shift

__all__ = ["CLAIMS"]

_METRIC = "log_effective_solutions"
_FALL = 0.05  # nats: five percent of the effective number of correct responses
_SLOPE = 0.02
_JUDGED = (PSR, NSR, GRPO)
_SAVED: dict[str, Any] = {"eval.every": 40, "eval.samples": 1, "record.checkpoint": True}
_THREE = {name: METHODS[name] for name in _JUDGED}
# Runs that keep their final policy: the optimiser, and rewards of which a tenth is wrong.
_WEIGHTS = (
    Study("path, AdamW", "default", _THREE, _SAVED),
    Study("path, SGD", "default", _THREE, {**_SAVED, **ONE_SGD_UPDATE, "optimizer.lr": 0.15}, seeds=4),
    Study(
        "path, AdamW, a tenth of the rewards wrong",
        "default",
        {name: METHODS[name] for name in (PSR, NSR)},
        {**_SAVED, "task.false_positive": 0.1, "task.false_negative": 0.1},
        seeds=4,
    ),
)


def _narrows(methods: Methods, name: str) -> Mapping[str, Decision]:
    """Of each method: whether the effective number of correct responses falls from base to end."""
    found: dict[str, Decision] = {}
    for method in (method for method, runs in methods.items() if runs and method in _JUDGED):
        condition = f"{name}, {method}"
        change = since_start(methods, method, [_METRIC])[_METRIC]
        part = Part(f"fewer effective correct responses after {method}", change, -_FALL, above=False, unit="nats")
        found[condition] = all_of([part], condition)
    if not found:
        raise UsageError(
            f"methods: expected finished runs labelled {', '.join(_JUDGED)}, got none; train one of them or set "
            "`label` in the recipe"
        )
    if methods.get(PSR) and methods.get(NSR):  # reported beside the verdict
        gaps = [
            compare(methods, PSR, NSR, [_METRIC], at)[_METRIC].effect(condition=name, unit="nats") for at in MATCHINGS
        ]
        last = next(reversed(found))
        found[last] = replace(found[last], effects=(*found[last].effects, *gaps))
    return found


def _slopes(methods: Methods, study: Study, evidence: Evidence) -> Mapping[str, Decision]:
    """Of each method: whether probable correct responses gain more than rare ones."""
    from ..measurements.correct_responses import shift_of_run

    base = study.runs[0].planned.config.policy.base
    found: dict[str, Decision] = {}
    for method, runs in ((method, runs) for method, runs in methods.items() if runs):
        shifts: dict[int, Shift] = {}
        for seed, run in sorted(runs.items()):
            evidence.progress(f"correct responses, {study.name}, {method}", len(shifts), len(runs))
            shifts[seed] = shift_of_run(Path(run.folder), str(base), seed)
        seeds, condition = tuple(shifts), f"{study.name}, {method}"
        slope, divergence = (
            SeedValues(f"{label}, {method}", "at the end", seeds, np.array(values), {})
            for label, values in (
                ("slope of Δlog π on log π among correct responses", [shift.slope for shift in shifts.values()]),
                ("KL to the base given a correct response", [shift.kl for shift in shifts.values()]),
            )
        )
        decision = all_of([Part("probable correct responses gaining most", slope, _SLOPE)], condition)
        table: dict[str, list[Any]] = {
            "method": [method] * len(shifts),
            "seed": list(shifts),
            "slope": [shift.slope for shift in shifts.values()],
            "kl": [shift.kl for shift in shifts.values()],
        }
        found[condition] = replace(
            decision,
            effects=(*decision.effects, divergence.effect(condition=condition, unit="nats")),
            tables={**decision.tables, "correct responses": table},
        )
    return found


def _f7(evidence: Evidence) -> Decision:
    from ..measurements.correct_responses import check_conservation

    tables = check_conservation()
    parts: dict[str, Decision] = {}
    for study in MAIN:
        parts |= _narrows(evidence.methods(study), study.name)
    for study in _WEIGHTS:
        parts |= {f"slope, {name}": part for name, part in _slopes(evidence.methods(study), study, evidence).items()}
    decision = together(parts)
    diverged = {study.name: evidence.diverged(study) for study in (*MAIN, *_WEIGHTS)}
    lost = "; ".join(
        f"{len(seeds)} of {method} in {name}"
        for name, by_method in diverged.items()
        for method, seeds in by_method.items()
        if method in _JUDGED
    )
    reason = (
        f"On tables NSR with Adam leaves the entropy given a correct response as it was (within "
        f"{float(tables['greatest'][0]):.1g} nats), and with SGD it changes by {float(tables['mean'][1]):.2g} nats. "
        f"{decision.reason}{f' Diverged and left out: {lost}.' if lost else ''}"
    )
    return replace(decision, reason=reason, tables={**decision.tables, "table": tables})


CLAIMS = (
    Claim(
        id="F7",
        family="field",
        title="Training loses diversity among correct responses",
        statement="Reinforcement learning narrows the distribution over correct responses: those that were probable "
        "before gain most, whatever the objective.",
        source="2511.19942 and 2605.02375, seen as abstracts; on tables with Adam the conservation law of this toolkit",
        hypothesis="The effective number of correct responses falls, and among correct responses the change of log π "
        "rises with log π.",
        statistic="Change from base to end of the log effective number of correct responses, exact, on test prompts. "
        "In runs that keep their weights, by enumeration on 64 test prompts: the slope of Δlog π on log π of the base "
        "among the correct responses to a prompt, weighed by the base. Beside it KL(π given correct ‖ base given "
        "correct), and PSR less NSR at equal steps, updates and Pass@1. On tables: Adam conserves the distribution "
        "over correct responses under NSR, slope 0, and SGD does not.",
        margin=f"a fall of {_FALL:g} nats, which is five percent of the number; a slope of {_SLOPE:g}",
        rule="For each method and condition: holds where the interval of the change lies below minus the margin "
        "(slope: above its margin), fails where it lies on the other side; depends on objective, optimiser, noise, "
        "task or regime where these differ. Runs that diverged are left out and named. Conditions are claims of their "
        "own, without correction.",
        conditions="The number of correct responses: PSR, NSR and GRPO on path and countdown, regimes A and B, 8 seeds "
        "with a base each. The slope: path, regime B, with AdamW (8 seeds), with one SGD update for each batch "
        "(4 seeds), and with AdamW and a tenth of the rewards wrong (PSR and NSR, 4 seeds).",
        practice="Measure diversity among correct responses, not entropy over all tokens; with rewards of 0 and 1, NSR "
        "and an optimiser that normalises each coordinate change it least on a table.",
        decide=_f7,
        studies=(*MAIN, *_WEIGHTS),
        seconds=240.0,
        judge=lambda methods: judged(methods, _narrows),
        tables=("evals",),
    ),
)
