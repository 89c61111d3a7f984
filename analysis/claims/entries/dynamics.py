"""Entries about the course of training: D1 to D3, L1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..claim import Claim, Decision
from ..comparisons import MATCHING_TEXT, MATCHINGS, Matching, compare, metric_text, since_start
from ..conjunctions import Part, all_of, by_condition, counting_diverged, judged
from ..evidence import Evidence, Methods
from ..studies import LONG, MAIN, RELEASED_BATCHES
from ..study import GRPO, NSR, PPO, PSR, W_REINFORCE

if TYPE_CHECKING:
    from ...records import Run
    from ..measurements.curves import Axis

__all__ = ["CLAIMS"]

# D1, fractions of the entropy of the base: what counts as a difference, and what as near.
_D1_ORDER, _D1_NEAR = 0.02, 0.10
_D2_MARGIN = 0.01
_D3_RISE = 0.02
_L1_MARGIN = 0.02
_AXES: tuple[Axis, ...] = ("step", "update")


def _others(methods: Methods, *names: str) -> list[str]:
    """Those of the names that have runs: all of them in the studies of the ledger."""
    return [name for name in names if methods.get(name)]


# -- D1 ----------------------------------------------------------------------------------------------------------------


def _entropy_order(methods: Methods, name: str) -> Mapping[str, Decision]:
    from ..measurements.curves import base_values

    found = {}
    for metric in ("entropy_fixed", "entropy_own"):
        question = f"{name}, {metric_text(metric)}"
        scale = float(base_values(methods, metric).values.mean())
        for at in MATCHINGS:
            pairs = [(NSR, PSR)]
            for other in _others(methods, PPO, GRPO):
                pairs += [(NSR, other), (other, PSR)]
            parts = [_entropy_part(methods, *pair, metric, at, scale) for pair in pairs]
            found[f"{question}, {MATCHING_TEXT[at]}"] = all_of(parts, f"{question}, {MATCHING_TEXT[at]}")
        change = since_start(methods, NSR, [metric])[metric]
        near = [
            Part("NSR near its base", change, -_D1_NEAR * scale, unit="nats"),
            Part("NSR near its base", change, _D1_NEAR * scale, above=False, unit="nats", shown=False),
        ]
        found[f"{question}, NSR and base"] = all_of(near, f"{question}, NSR and base")
    return found


def _entropy_part(methods: Methods, first: str, second: str, metric: str, at: Matching, scale: float) -> Part:
    """NSR above PSR by the margin, or another pair not below by it; the margin is a fraction of the base's entropy."""
    strict = (first, second) == (NSR, PSR)
    gap = compare(methods, first, second, [metric], at)[metric]
    says = f"{first} {'above' if strict else 'at or above'} {second}"
    return Part(says, gap, (_D1_ORDER if strict else -_D1_ORDER) * scale, unit="nats", shown=strict)


# -- D2 ----------------------------------------------------------------------------------------------------------------


def _psr_solves_most(methods: Methods, name: str) -> Mapping[str, Decision]:
    from ..measurements.curves import rollout_ratio

    others = _others(methods, NSR, GRPO, PPO, W_REINFORCE)
    found = {}
    for axis in _AXES:
        parts = [
            Part(
                f"PSR above {other}",
                rollout_ratio(methods, PSR, other, column, axis),
                _D2_MARGIN,
                shown=other == NSR,
            )
            for column in ("correct_ratio", "fully_solved_ratio")
            for other in others
        ]
        condition = f"{name}, equal {axis}s"
        decision = all_of(parts, condition)
        table = _rollout_curves(methods) if axis == "step" else {}
        found[condition] = replace(decision, tables={**decision.tables, **({"rollouts": table} if table else {})})
    metric, condition = "fully_solved_ratio", f"{name}, equal Pass@1"
    parts = [
        Part(
            f"PSR above {other}",
            compare(methods, PSR, other, [metric], "pass@1")[metric],
            _D2_MARGIN,
            shown=other == NSR,
        )
        for other in others
    ]
    found[condition] = all_of(parts, condition)
    return found


def _rollout_curves(methods: Methods) -> dict[str, list[Any]]:
    """Ratios of the training rollouts by step, means over seeds."""
    from ..measurements.curves import rollout_curve

    table: dict[str, list[Any]] = {
        name: [] for name in ("method", "step", "update", "correct_ratio", "fully_solved_ratio")
    }
    for method, runs in methods.items():
        if not runs:
            continue
        curves = {
            column: [rollout_curve(run, column) for run in runs.values()]
            for column in ("correct_ratio", "fully_solved_ratio")
        }
        length = min(len(steps) for steps, _, _ in curves["correct_ratio"])
        steps, updates, _ = (np.mean([c[i][:length] for c in curves["correct_ratio"]], axis=0) for i in range(3))
        table["method"] += [method] * length
        table["step"] += steps.tolist()
        table["update"] += updates.tolist()
        for column, found in curves.items():
            table[column] += np.mean([ratio[:length] for _, _, ratio in found], axis=0).tolist()
    return table


# -- D3 ----------------------------------------------------------------------------------------------------------------


def _psr_rises_and_stalls(methods: Methods, name: str) -> Mapping[str, Decision]:
    from ..measurements.curves import at_places, contrast, last_place

    others = _others(methods, NSR, GRPO, PPO)
    metric = "greedy_accuracy"
    found = {}
    for axis in _AXES:
        used = [run for method in (PSR, *others) for run in methods[method].values()]
        end = last_place(used, axis)
        condition = f"{name}, equal {axis}s"

        def gains(run: Run, axis: Axis = axis, end: float = end) -> tuple[np.ndarray, np.ndarray]:
            """In the first quarter, and in the second half."""
            start, quarter, half, last = at_places(run, metric, (0, end / 4, end / 2, end), axis)
            return quarter - start, last - half

        def early_gap(psr: Run, other: Run) -> np.ndarray:
            return gains(psr)[0] - gains(other)[0]

        def slowing(run: Run) -> np.ndarray:
            early, late = gains(run)
            return early - 2 * late

        texts = {"metric": metric, "at": f"equal {axis}s"}
        early = contrast(
            methods,
            (PSR,),
            lambda run: gains(run)[0],
            label="greedy accuracy of PSR, gain in the first quarter",
            **texts,
        )
        slower = contrast(
            methods,
            (PSR,),
            slowing,
            label="greedy accuracy of PSR, early gain less twice the gain of the last half",
            **texts,
        )
        parts = [
            Part("PSR rises early", early, _D3_RISE),
            *(
                Part(
                    f"PSR rises faster than {other}",
                    contrast(
                        methods, (PSR, other), early_gap, label=f"early gain in greedy accuracy: PSR − {other}", **texts
                    ),
                    0.0,
                    shown=other == NSR,
                )
                for other in others
            ),
            Part("PSR stalls", slower, 0.0),
        ]
        found[condition] = all_of(parts, condition)
    condition = f"{name}, equal Pass@1"
    at_equal = [
        Part(f"PSR at or below {other}", compare(methods, PSR, other, [metric], "pass@1")[metric], 0.0, above=False)
        for other in others
    ]
    reported = all_of(at_equal, condition)
    first = f"{name}, equal steps"
    tables = {**found[first].tables, "at_equal_pass_at_1": reported.tables["parts"]}
    found[first] = replace(found[first], tables=tables)
    return found


# -- L1 ----------------------------------------------------------------------------------------------------------------


def _nsr_degrades(methods: Methods, name: str, *, nsr_diverged: bool = False) -> Mapping[str, Decision]:
    from ..measurements.peaks import after_peak

    stable = after_peak(methods, W_REINFORCE, "pass@1")
    parts = [Part("W-REINFORCE does not fall after its peak", stable.change, -_L1_MARGIN)]
    falling = None
    if not nsr_diverged:
        falling = after_peak(methods, NSR, "pass@1")
        parts.insert(0, Part("NSR falls after its peak", falling.change, -_L1_MARGIN, above=False))
    decision = all_of(parts, name)
    table: dict[str, list[Any]] = {
        column: [] for column in ("method", "seed", "peak", "end", "change", "change_per_10_steps", "change_pass_at_64")
    }
    for method, runs in methods.items():
        if len(runs) < 2:
            continue
        found, at_64 = after_peak(methods, method, "pass@1"), after_peak(methods, method, "pass@64")
        for row, seed in enumerate(found.change.seeds):
            steps = found.ends[seed] - found.peaks[seed]
            change = float(found.change.values[row].mean())
            slope = 10 * change / steps if steps else 0.0
            last = float(at_64.change.values[row].mean())
            entry = (method, seed, found.peaks[seed], found.ends[seed], change, slope, last)
            for column, value in zip(table, entry, strict=True):
                table[column].append(value)
    decision = replace(decision, tables={**decision.tables, "after_peak": table})
    only_nsr = decision.tables["parts"]["verdict"][-1] != "fails"
    if falling is not None and decision.verdict == "fails" and only_nsr and not falling.reached:
        text = f"NSR peaks late: its window ends before three times the peak step. {decision.reason}"
        return {
            name: replace(
                decision, verdict="undecided", reason=text, missing=f"runs of {falling.steps_needed} steps or more"
            )
        }
    return {name: decision}


def _l1(evidence: Evidence) -> Decision:
    diverged = evidence.diverged(LONG)
    of_nsr = len(diverged.get(NSR, ()))
    methods = evidence.methods(LONG)
    (decision,) = _nsr_degrades(methods, LONG.name, nsr_diverged=2 * of_nsr >= LONG.seeds).values()
    if of_nsr:
        decision = replace(decision, reason=f"{of_nsr} of {LONG.seeds} runs of NSR diverged. {decision.reason}")
    return counting_diverged(decision, W_REINFORCE, len(diverged.get(W_REINFORCE, ())), LONG.seeds)


CLAIMS = (
    Claim(
        id="D1",
        family="dynamics",
        title="NSR keeps entropy, PSR loses it",
        statement="During training the entropy after NSR is at or above that after PPO and GRPO, theirs is at or above "
        "that after PSR, and that after NSR stays near the base.",
        source="2506.01347, Figure 4b",
        hypothesis="Entropy is ordered NSR, then PPO and GRPO, then PSR, with NSR above PSR, and NSR near the base.",
        statistic="Mean entropy of a token on test prompts, for two different questions: on prefixes of the base's own "
        "responses, fixed once, and on the responses that the trained policy samples.",
        margin=f"{_D1_ORDER:.0%} of the base's entropy for the order, {_D1_NEAR:.0%} for near",
        rule="The order holds where NSR lies above PSR by more than the margin and no other difference lies below "
        "minus the margin, each by its 95% interval; it fails where one part lies on the other side by the "
        "simultaneous interval of all parts. Near holds where the interval of NSR less the base lies within its "
        "margin.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each, T = 1; at equal steps, equal "
        "updates and equal Pass@1. NSR is compared with its base at the end of training.",
        practice="State on which prefixes you measure entropy, and compare methods at equal Pass@1.",
        decide=lambda evidence: by_condition(evidence, MAIN, _entropy_order, NSR),
        studies=MAIN,
        judge=lambda methods: judged(methods, _entropy_order, NSR, PSR),
        tables=("evals",),
    ),
    Claim(
        id="D2",
        family="dynamics",
        title="PSR solves most training prompts",
        statement="Training on correct responses alone gives the highest fraction of correct rollouts and of training "
        "prompts with all rollouts correct.",
        source="2506.01347, Figures 4c and 4d",
        hypothesis="Towards the end of training both fractions are higher under PSR than under every other method.",
        statistic="Fractions of the training rollouts, PSR less each other method, mean over the last quarter of the "
        "common steps or updates; at equal Pass@1 the fraction of test prompts with all sampled responses correct.",
        margin=f"{_D2_MARGIN:g}",
        rule="Holds where the interval of every difference lies above the margin; fails where one lies below it by the "
        "simultaneous interval of all differences. Runs of PSR that diverged count against it.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each, four updates for each batch; and "
        "path-p60 with minibatches of 256 rows as in the released code, 4 seeds, where the methods differ in their "
        "number of updates. Per step, per update, and at equal Pass@1, where the fraction of correct responses is "
        "equal by construction.",
        practice="Compare training curves per optimiser update: dropping rows changes how many updates a step has.",
        decide=lambda evidence: by_condition(evidence, (*MAIN, RELEASED_BATCHES), _psr_solves_most, PSR),
        studies=(*MAIN, RELEASED_BATCHES),
        judge=lambda methods: judged(methods, _psr_solves_most, PSR, NSR),
        tables=("evals", "steps"),
    ),
    Claim(
        id="D3",
        family="dynamics",
        title="PSR's greedy accuracy rises fast, then stalls",
        statement="Under PSR greedy accuracy rises faster than under the other methods at first, and then stalls.",
        source="2506.01347, Figure 4a",
        hypothesis="PSR gains more than the others in the first quarter of training, and its rate of gain in the last "
        "half is less than a quarter of that.",
        statistic="Greedy accuracy on test prompts: the gain in the first quarter of the common updates, PSR less each "
        "other method; and PSR's own early gain less twice its gain in the last half.",
        margin=f"{_D3_RISE:g} for the early gain, 0 for the differences",
        rule="Holds where the early gain lies above its margin, and the differences and the slowing above 0; fails "
        "where one of them lies below by the simultaneous interval of all parts.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each; and path-p60 with minibatches of "
        "256 rows, 4 seeds. Per step and per update. Greedy accuracy at equal Pass@1 is reported (table "
        "at_equal_pass_at_1) and does not enter the verdict, which is about time.",
        practice="Stop PSR early, or judge it by its late course: its first steps flatter it.",
        decide=lambda evidence: by_condition(evidence, (*MAIN, RELEASED_BATCHES), _psr_rises_and_stalls),
        studies=(*MAIN, RELEASED_BATCHES),
        judge=lambda methods: judged(methods, _psr_rises_and_stalls, PSR, NSR),
        tables=("evals",),
    ),
    Claim(
        id="L1",
        family="dynamics",
        title="Long NSR degrades, W-REINFORCE does not",
        statement="Trained for long, NSR loses accuracy again, and W-REINFORCE with λ = 0.1 does not.",
        source="2506.01347, appendix D",
        hypothesis="After the peak of its Pass@1, NSR falls, and W-REINFORCE does not.",
        statistic="Change of exact Pass@1 on test prompts from the peak step to three times that step, or to the end "
        "of the run. The peak of a seed is the first step at which the mean validation Pass@1 of the other seeds is "
        "within 0.01 of its greatest.",
        margin=f"{_L1_MARGIN:g}",
        rule="Holds where the interval of NSR's change lies below minus the margin and that of W-REINFORCE above it; "
        "fails where one lies on the other side by the simultaneous interval of both, unless NSR's window ends before "
        "three times its peak: then it is undecided. Where half of NSR's runs diverge they count as degraded; runs of "
        "W-REINFORCE that diverged count against it.",
        conditions="path, regime A, 4 seeds with a base each, 120 steps. A curve after its own peak has no second "
        "run to match; steps and updates are proportional here, four updates for each step.",
        practice="Keep a validation curve and stop at its peak, or add a little weight on correct responses.",
        decide=_l1,
        studies=(LONG,),
        judge=lambda methods: judged(methods, _nsr_degrades, NSR, W_REINFORCE),
        tables=("evals",),
    ),
)
