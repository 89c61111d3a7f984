"""Entries about groups of responses: F11 (how large a group must be) and F12 (Pass@k as the objective)."""

from __future__ import annotations

from typing import Any

from ..claim import Claim
from ..comparisons import compare, since_start
from ..conditions import combined
from ..decision import Decision, Effect
from ..evidence import Evidence, Methods
from ..rules import equivalent, falls_below
from ..study import GRPO, METHODS, Study

__all__ = ["CLAIMS"]

_EVALUATED = {"eval.every": 5}
# Groups of G with as many rollouts a step.
_ROLLOUTS = 1024


def _group(size: int) -> dict[str, Any]:
    return {**METHODS[GRPO], "rollout.group_size": size, "rollout.prompts": _ROLLOUTS // size}


_TWO, _SIXTEEN = "GRPO, G = 2", "GRPO, G = 16"
_SIZES = Study(
    "path, regime B", "default", {f"GRPO, G = {size}": _group(size) for size in (2, 4, 8, 16)}, _EVALUATED, seeds=4
)
_SIZES_COUNTDOWN = Study(
    "countdown, regime B", "countdown", {_TWO: _group(2), _SIXTEEN: _group(16)}, _EVALUATED, seeds=4
)
_F11_MARGIN = 0.02


def _two_do_as_well(methods: Methods) -> Decision:
    """Pass@1 and Pass@64 of groups of 2 less those of groups of 16, at equal steps and so at equal rollouts."""
    found = compare(methods, _TWO, _SIXTEEN, ["pass@1", "pass@64"], "step")
    parts = {
        metric: equivalent(comparison.effect(condition="", margin=_F11_MARGIN), _F11_MARGIN, comparison)
        for metric, comparison in found.items()
    }
    return combined(parts)


def _f11(evidence: Evidence) -> Decision:
    from ..measurements.groups import weight_tables

    tables = weight_tables()
    parts = {study.name: _two_do_as_well(evidence.methods(study)) for study in (_SIZES, _SIZES_COUNTDOWN)}
    decision = combined(parts)
    shapes = tables["distortion"]
    exact = tuple(
        Effect(
            f"greatest distortion of prompt weights, {objective}, G = {size}", float(value), n=0, over="p", kind="exact"
        )
        for objective, size, value in zip(*shapes.values(), strict=True)
        if objective == "grpo"
    )
    reason = (
        f"At G = 2 the weight that GRPO gives to prompts is distorted by up to {exact[0].value:.0%} beside that of an "
        f"infinite group, at G = 16 by up to {exact[-1].value:.0%}, for success probabilities from 0.05 to 0.95. "
        f"{decision.reason}"
    )
    return Decision(
        decision.verdict, reason, (*decision.effects, *exact), decision.depends_on, decision.missing, tables
    )


_K, _GROUP = 8, 16
_PASS_K, _CONTROL = f"Pass@{_K} objective", "Pass@1 objective"
_INTERFERING = {
    _PASS_K: {"objective.name": "pass-at-k", "objective.k": _K},
    _CONTROL: {"objective.name": "pass-at-k", "objective.k": 1},
}
_F12_VALUES = {**_EVALUATED, "rollout.group_size": _GROUP, "rollout.prompts": _ROLLOUTS // _GROUP}
_F12_STUDIES = tuple(
    Study(base, "default", _INTERFERING, {**_F12_VALUES, "policy.base": base}, seeds=4) for base in ("path", "path-p85")
)
_F12_MARGIN = 0.01


def _pass_1_falls(methods: Methods) -> Decision:
    """Pass@1 at the end of training on Pass@k, less that of the base: holds where it fell by more than the margin."""
    comparison = since_start(methods, _PASS_K, ["pass@1"])["pass@1"]
    return falls_below(comparison.effect(condition="", margin=_F12_MARGIN), -_F12_MARGIN, comparison)


def _f12(evidence: Evidence) -> Decision:
    from ...evaluation import interval
    from ..measurements.groups import interference

    parts: dict[str, Decision] = {}
    columns: dict[str, list[float | str]] = {
        name: [] for name in ("base", "seed", "p", "negative_share", "cosine", "change", "change_control")
    }
    agreed = 0
    for study in _F12_STUDIES:
        methods = evidence.methods(study)
        parts[study.name] = _pass_1_falls(methods)
        changes = {name: since_start(methods, name, ["pass@1"])["pass@1"] for name in (_PASS_K, _CONTROL)}
        for row, seed in enumerate(changes[_PASS_K].seeds):
            found = interference(study.name, seed, _K, evidence.progress)
            change = float(changes[_PASS_K].values[row].mean())
            control = changes[_CONTROL]
            other = float(control.values[control.seeds.index(seed)].mean()) if seed in control.seeds else float("nan")
            agreed += (found.cosine > 0) == (change > 0)
            numbers = (float(seed), found.p, found.negative_share, found.cosine, change, other)
            columns["base"].append(study.name)
            for name, value in zip(list(columns)[1:], numbers, strict=True):
                columns[name].append(value)
    decision = combined(parts)
    measured = []
    for study in _F12_STUDIES:
        for name, label in (
            ("negative_share", "share of pairs of prompts that interfere"),
            ("cosine", "cosine of ∇Pass@1 and ∇Pass@8"),
        ):
            of_base = [float(v) for v, base in zip(columns[name], columns["base"], strict=True) if base == study.name]
            mean = interval(of_base, over="seeds")
            measured.append(
                Effect(
                    label, mean.estimate, mean.low, mean.high, n=len(of_base), condition=study.name, kind=str(mean.kind)
                )
            )
    count = len(columns["seed"])
    reason = (
        f"{decision.reason} The sign of the cosine between the gradients of Pass@1 and Pass@{_K} at the base foretold "
        f"the sign of the change of Pass@1 in {agreed} of {count} runs."
    )
    return Decision(
        decision.verdict,
        reason,
        (*decision.effects, *measured),
        decision.depends_on,
        decision.missing,
        {"interference": columns},
    )


CLAIMS = (
    Claim(
        id="F11",
        family="field",
        title="Two rollouts do as well as sixteen",
        statement="With the same number of rollouts a step, groups of two responses train as well as groups of "
        "sixteen, although advantages that are normalised within a group are biased.",
        source="2510.00977 (two rollouts), 2601.08521 (bias of group advantages); both seen as abstracts",
        hypothesis="Pass@1 and Pass@64 after training with G = 2 and with G = 16 differ by less than the margin.",
        statistic="Exact Pass@1 and Pass@64 on test prompts of GRPO with G = 2 less G = 16, at the last step, with "
        f"{_ROLLOUTS} rollouts in every step. Beside it, in closed form, the weight that each normaliser gives to a "
        "prompt at every group size.",
        margin=f"±{_F11_MARGIN:g} in either",
        rule="Holds where both intervals lie within the margin on both tasks; fails where all lie outside; depends on "
        "metric or task where some do.",
        conditions="path with groups of 2, 4, 8 and 16, countdown with 2 and 16; regime B, 4 seeds with a base each. "
        "Equal steps are equal updates and equal rollouts.",
        practice="Spend a fixed number of rollouts on more prompts with small groups, and mind that the weight of easy "
        "and hard prompts changes with the group size.",
        decide=_f11,
        studies=(_SIZES, _SIZES_COUNTDOWN),
        seconds=5.0,
    ),
    Claim(
        id="F12",
        family="field",
        title="Optimising Pass@k lowers Pass@1 through interference",
        statement="Training on Pass@k weighs hard prompts most; where their gradients point against those of other "
        "prompts, Pass@1 falls.",
        source="2602.21189",
        hypothesis=f"After training on Pass@{_K}, Pass@1 is below that of the base, and the sign of the cosine between "
        "the two gradients at the base foretells it.",
        statistic=f"Exact Pass@1 on test prompts after training on Pass@{_K} less that of the base. At the base, by "
        "enumeration on 64 test prompts: the share of pairs of prompts with a negative inner product of gradients, and "
        f"the cosine between the gradients of Pass@1 and Pass@{_K}.",
        margin=f"{_F12_MARGIN:g}",
        rule="Holds where the whole interval of the change lies below minus the margin, fails where it lies above it, "
        "depends on the accuracy of the base where the two differ.",
        conditions=f"path at accuracies of 0.35 and 0.85, groups of {_GROUP}, k = {_K} against k = 1, 4 seeds with a "
        "base each, at the end of training.",
        practice="Before you train on Pass@k, measure the cosine of the two gradients on your base: a negative one "
        "says that Pass@1 will pay.",
        decide=_f12,
        studies=_F12_STUDIES,
        seconds=60.0,
    ),
)
