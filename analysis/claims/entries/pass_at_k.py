"""Entries about Pass@k after training: P1 to P4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..claim import Claim, Decision, Effect
from ..comparisons import MATCHING_TEXT, MATCHINGS, Comparison, compare, since_start
from ..conjunctions import Part, all_of, by_condition, judged, require, temperatures
from ..evidence import Evidence, Methods
from ..studies import MAIN, TWO_MODES
from ..study import GRPO, NSR, PPO, PSR

__all__ = ["CLAIMS"]

_K = tuple(2**i for i in range(9))  # the paper's k for Qwen2.5-Math-7B
_LARGEST = f"pass@{_K[-1]}"
_TEMPERATURES = (1.0, 0.6)  # that of training, and that of the paper's evaluation
_LEAST_SEEDS = 4

# P1: under half of one of the 40 problems of AMC23, the least difference that the paper's own tables could show.
_P1_MARGIN = 0.01
_P2_MARGIN = 0.01
# P3: one of 40 problems.
_P3_LEAD = 1 / 40
# The paper's leads of NSR over the best other method at k = 256, in problems.
_PAPER_LEADS = {"AIME 2025": (2, 30), "AMC23": (1, 40), "MATH": (0, None)}
# P4: about three times the mass that the base gives to the mode; and what tells two methods apart.
_LOCKED_BELOW = 0.1
_P4_MARGIN = 0.05


def _named(name: str, temperature: float) -> str:
    return f"{name}, T = {temperature:g}"


# -- P1 ----------------------------------------------------------------------------------------------------------------


def _nsr_keeps_every_k(methods: Methods, name: str) -> Mapping[str, Decision]:
    found = {}
    for temperature in temperatures(methods, _TEMPERATURES):
        condition = _named(name, temperature)
        changes = since_start(methods, NSR, [f"pass@{k}" for k in _K], temperature=temperature)
        parts = [
            Part(f"NSR at or above its base at k = {k}", changes[f"pass@{k}"], -_P1_MARGIN, shown=k in (1, 16, _K[-1]))
            for k in _K
        ]
        decision = all_of(parts, condition)
        table = _pass_at_k_table(methods, temperature)
        ceiling = _full_of_base(table)
        text = f" The base is within {_P1_MARGIN:g} of its ceiling from k = {min(ceiling)} on." if ceiling else ""
        tables = {**decision.tables, "pass_at_k": table}
        found[condition] = replace(decision, reason=decision.reason + text, tables=tables)
    return found


def _full_of_base(table: Mapping[str, list[Any]]) -> set[int]:
    rows = zip(table["method"], table["k"], table["value"], strict=True)
    return {k for method, k, value in rows if method == "base" and value > 1 - _P1_MARGIN}


def _pass_at_k_table(methods: Methods, temperature: float) -> dict[str, list[Any]]:
    """Pass@k of the bases and of every method at the end, with intervals over seeds and prompts."""
    from ..measurements.curves import base_values, levels

    table: dict[str, list[Any]] = {name: [] for name in ("method", "k", "value", "low", "high")}
    for k in _K:
        metric = f"pass@{k}"
        measured = {"base": base_values(methods, metric, temperature=temperature)}
        measured |= {m: levels(methods, m, metric, temperature=temperature) for m in methods if methods[m]}
        for method, comparison in measured.items():
            effect = comparison.effect(condition="")
            for column, value in zip(table, (method, k, effect.value, effect.low, effect.high), strict=True):
                table[column].append(value)
    return table


# -- P2 ----------------------------------------------------------------------------------------------------------------


def _psr_gains_and_loses(methods: Methods, name: str) -> Mapping[str, Decision]:
    from ..measurements.curves import crossover

    found = {}
    for temperature in temperatures(methods, _TEMPERATURES):
        condition = _named(name, temperature)
        changes = since_start(methods, PSR, ["pass@1", _LARGEST], temperature=temperature)
        parts = [
            Part("PSR below its base at k = 256", changes[_LARGEST], -_P2_MARGIN, above=False),
            Part("PSR above its base at k = 1", changes["pass@1"], _P2_MARGIN),
        ]
        decision = all_of(parts, condition)
        crossing, never = crossover(methods, PSR, temperature=temperature)
        effect = crossing.effect(condition=condition, unit="doublings of k", null=math.nan)
        if never:  # those that cross are a selection
            reason = f"{len(never)} of {len(crossing.seeds) + len(never)} seeds do not cross up to k = 4096"
            effect = Effect(
                effect.label, effect.value, unit=effect.unit, n=effect.n, condition=condition, reason=reason
            )
            text = f" Pass@k crosses that of the base in {len(crossing.seeds)} seeds and not in {len(never)}."
        elif math.isfinite(effect.low):
            k, low, high = (2.0**value for value in (effect.value, effect.low, effect.high))
            text = f" Pass@k falls below that of the base at k = {k:.3g} ({low:.3g} to {high:.3g})."
        else:
            text = f" Pass@k falls below that of the base at k = {2.0**effect.value:.3g}."
        table = {
            "seed": [*crossing.seeds, *never],
            "k": [*(2.0 ** float(value) for value in crossing.values), *([None] * len(never))],
        }
        found[condition] = replace(
            decision,
            reason=decision.reason + text,
            effects=(*decision.effects, effect),
            tables={**decision.tables, "crossover": table},
        )
    return found


# -- P3 ----------------------------------------------------------------------------------------------------------------


def _nsr_leads_at_256(methods: Methods, name: str) -> Mapping[str, Decision]:
    found = {}
    for temperature in temperatures(methods, _TEMPERATURES):
        for at in MATCHINGS:
            condition = f"{_named(name, temperature)}, {MATCHING_TEXT[at]}"
            parts = [
                Part(
                    f"NSR ahead of {other} by one problem in 40",
                    compare(methods, NSR, other, [_LARGEST], at, temperature=temperature)[_LARGEST],
                    _P3_LEAD,
                    shown=other == PSR,
                )
                for other in (PSR, GRPO, PPO)
            ]
            found[condition] = all_of(parts, condition)
    return found


def _p3(evidence: Evidence) -> Decision:
    decision = by_condition(evidence, MAIN, _nsr_leads_at_256, NSR)
    return replace(decision, tables={**decision.tables, "paper": _paper_table()})


def _paper_table() -> dict[str, list[Any]]:
    """The paper's leads, and the least p that they allow: an exact sign test with no problem against NSR."""
    leads = {name: lead for name, (lead, _) in _PAPER_LEADS.items()}
    return {
        "benchmark": list(leads),
        "lead": list(leads.values()),
        "problems": [problems for _, problems in _PAPER_LEADS.values()],
        "least_p": [min(1.0, 2 * 0.5**lead) for lead in leads.values()],
    }


# -- P4 ----------------------------------------------------------------------------------------------------------------


def _psr_stays_locked(methods: Methods, name: str) -> Mapping[str, Decision]:
    from ..measurements.curves import levels

    require(methods, (PSR, NSR))
    locked = Part("PSR leaves the mode rare", levels(methods, PSR, "mode_mass"), _LOCKED_BELOW, above=False)
    found = {}
    for at in MATCHINGS:
        condition = f"{name}, {MATCHING_TEXT[at]}"
        ahead = compare(methods, NSR, PSR, ["mode_mass", "mode_p", "pass@1"], at)
        parts = [replace(locked, shown=at == MATCHINGS[0]), Part("NSR unlocks more", ahead["mode_mass"], _P4_MARGIN)]
        decision = all_of(parts, condition)
        found[condition] = replace(decision, tables={**decision.tables, "mode": _mode_table(methods, ahead)})
    return found


def _mode_table(methods: Methods, ahead: Mapping[str, Comparison]) -> dict[str, list[Any]]:
    """Mass of the mode and success within and outside of it, of the bases and at the end."""
    from ..measurements.curves import base_values, levels

    table: dict[str, list[Any]] = {name: [] for name in ("method", "metric", "value", "low", "high")}

    def add(method: str, metric: str, comparison: Comparison) -> None:
        effect = comparison.effect(condition="")
        for column, value in zip(table, (method, metric, effect.value, effect.low, effect.high), strict=True):
            table[column].append(value)

    for metric in ("mode_mass", "mode_p", "outside_p", "pass@1"):
        add("base", metric, base_values(methods, metric))
        for method in methods:
            if methods[method]:
                add(method, metric, levels(methods, method, metric))
    for metric, comparison in ahead.items():
        add("NSR − PSR", metric, comparison)
    return table


CLAIMS = (
    Claim(
        id="P1",
        family="pass-at-k",
        title="NSR keeps every Pass@k of its base",
        statement="Training on wrong responses alone leaves Pass@k at or above that of the base at every k.",
        source="2506.01347, section 3.2, Figure 2",
        hypothesis="After training with NSR, Pass@k is not below that of the base at any k from 1 to 256.",
        statistic="Exact Pass@k on test prompts at the end of training, less that of the base, at nine values of k.",
        margin=f"{_P1_MARGIN:g} at each k: under half of one of the 40 problems of AMC23",
        rule="Non-inferiority: holds where the 95% interval lies above minus the margin at each k; fails where at "
        "one k the interval of a simultaneous band over the nine k (Bonferroni) lies below minus the margin. Runs of "
        "NSR that diverged count against it: a quarter of them makes it fail.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each; T = 1, at which the policy is "
        "trained, and T = 0.6, at which the paper evaluates. The change from a base has nothing to match.",
        practice="Training on failures alone is a safe start where many samples will be drawn; check the largest k.",
        decide=lambda evidence: by_condition(evidence, MAIN, _nsr_keeps_every_k, NSR),
        studies=MAIN,
        judge=lambda methods: judged(methods, _nsr_keeps_every_k, NSR),
        tables=("evals",),
    ),
    Claim(
        id="P2",
        family="pass-at-k",
        title="PSR gains Pass@1 and loses Pass@256",
        statement="Training on correct responses alone raises Pass@1 and lowers Pass@k below the base at large k.",
        source="2506.01347, section 3.2, Figure 2",
        hypothesis="After training with PSR, Pass@1 is above that of the base and Pass@256 below it.",
        statistic="Exact Pass@1 and Pass@256 on test prompts at the end of training, less those of the base; and the k "
        "where Pass@k falls below that of the base, seed by seed.",
        margin=f"{_P2_MARGIN:g} in either",
        rule="Holds where the interval of the gain at k = 1 lies above the margin and that of the change at k = 256 "
        "below minus the margin; fails where one of the two lies on the other side of its bound by the simultaneous "
        "interval of both. The crossover is reported with Student's interval over the seeds of its logarithm, where "
        "all seeds cross.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each; T = 1 and T = 0.6. The change "
        "from a base has nothing to match.",
        practice="Watch Pass@k at the largest k that you will sample with, not Pass@1 alone, when you train on "
        "successes.",
        decide=lambda evidence: by_condition(evidence, MAIN, _psr_gains_and_loses),
        studies=MAIN,
        judge=lambda methods: judged(methods, _psr_gains_and_loses, PSR),
        tables=("evals",),
    ),
    Claim(
        id="P3",
        family="pass-at-k",
        title="NSR is best at the largest k",
        statement="At the largest k, Pass@k after NSR is above that after PSR, GRPO and PPO.",
        source="2506.01347, section 3.2, Figure 2",
        hypothesis="Pass@256 after NSR leads that after each other method by one problem in 40 or more.",
        statistic="Exact Pass@256 on test prompts, NSR less PSR, GRPO and PPO, paired by seed.",
        margin="1/40, the least lead that the paper has: it leads by 2 of 30 problems on AIME 2025 and by 1 of 40 on "
        "AMC23, and ties on MATH. An exact sign test of such leads gives p = 0.5 and p = 1 at best (table paper)",
        rule="Holds where the 95% interval of each of the three differences lies above the margin; fails where one of "
        "them lies below it by the simultaneous interval of the three, so that a tie is a failure. Runs of NSR that "
        "diverged count against it.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each; T = 1 and T = 0.6; at equal steps, "
        "equal updates and equal Pass@1.",
        practice="Prefer NSR for large sampling budgets only where its lead holds at equal Pass@1, too.",
        decide=_p3,
        studies=MAIN,
        judge=lambda methods: judged(methods, _nsr_leads_at_256, NSR, PSR, GRPO, PPO),
        tables=("evals",),
    ),
    Claim(
        id="P4",
        family="pass-at-k",
        title="PSR does not unlock a latent mode",
        statement="Where a model has a way of answering that works well but that it rarely uses, training on correct "
        "responses alone does not bring it out, while training on wrong responses does.",
        source="2506.01347, Figure 3 (Qwen3-4B without thinking)",
        hypothesis="After PSR the mode stays rare, and after NSR it has more mass.",
        statistic="Exact probability of the mode on test prompts: after PSR, and NSR less PSR.",
        margin=f"{_LOCKED_BELOW:g} for a rare mode, three times its mass in the base; {_P4_MARGIN:g} between methods",
        rule="Holds where the interval of the mass after PSR lies below the first bound and that of NSR less PSR above "
        "the second; fails where either lies on the other side by the simultaneous interval of both. Runs of NSR that "
        "diverged count against it.",
        conditions="two-modes, 8 seeds with a base each: answering aloud succeeds four times as often as answering "
        "silently and has 3% of the mass. The mass after PSR is that at the end; the two methods are compared at equal "
        "steps, equal updates and equal Pass@1.",
        practice="To bring out an ability that a prompt format hides, measure the mass of that format, not accuracy.",
        decide=lambda evidence: by_condition(evidence, (TWO_MODES,), _psr_stays_locked, NSR),
        studies=(TWO_MODES,),
        judge=lambda methods: judged(methods, _psr_stays_locked, PSR, NSR),
        tables=("evals",),
    ),
)
