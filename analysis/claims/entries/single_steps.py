"""Entries about single updates: G1 to G6. Exact on a table; the verdicts are about transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..claim import Claim, Decision, Effect
from ..conditions import combined
from ..conjunctions import Part, SeedValues, all_of, judged, together
from ..evidence import Evidence, Methods
from ..rules import falls_below
from ..studies import ONE_SGD_UPDATE
from ..study import METHODS, NSR, PSR, Study

if TYPE_CHECKING:
    from ..measurements.steps import ContextSteps

__all__ = ["CLAIMS", "STEPS"]

_SEEDS = 4
_EXACT = 1e-8  # relative, where autograd resolves 1 − π_y ≥ 1e-6 to about ten digits
_R_SQUARED = 0.5
_GAIN, _CORRELATION = 0.6, 0.1
_FALLING = 0.9
_SLOPE = 0.5
_SHARPENED = 0.6

_RECORDED = {
    "steps": 4,
    "eval.every": 4,
    "eval.prompts": 16,
    "eval.final_prompts": 16,
    "eval.samples": 1,
    "record.contexts": 256,
    "record.contexts_every": 1,
    "record.top_k": 64,  # more than the vocabulary of path has tokens
    "record.jvp_every": 0,
}
_SGD = {**_RECORDED, **ONE_SGD_UPDATE, "optimizer.lr": 0.15}
_UNCLIPPED = {"objective.clip_low": "unset", "objective.clip_high": "unset"}


def _methods(form: str) -> dict[str, dict[str, object]]:
    return {name: {**METHODS[name], "objective.form": form} for name in (PSR, NSR)}


# The first updates of training, with the distribution of every context before and after.
STEPS = (
    Study("SGD, ratio form", "default", _methods("ratio"), _SGD, seeds=_SEEDS),
    Study("SGD, probability form", "default", _methods("probability"), {**_SGD, **_UNCLIPPED}, seeds=_SEEDS),
    Study("AdamW, ratio form", "default", _methods("ratio"), _RECORDED, seeds=_SEEDS),
)
_CONDITIONS = (
    f"path, {_SEEDS} seeds with a base each, the first 4 batches of 1024 rollouts, up to 128 contexts of each update "
    "with all their tokens: one SGD update for each batch in the ratio form of the released code and in the "
    "probability form of the paper's equations, and four AdamW updates for each in the ratio form. A method acts on "
    "its own updates, so that no matching arises."
)

# of a run's contexts: name -> number
Statistics = Callable[["ContextSteps"], Mapping[str, float]]
# (statistic, its label, what the claim says of it, the bound, whether above, the unit)
Said = tuple[str, str, str, float, bool, str]


def _of(methods: Methods, method: str, statistics: Statistics) -> dict[str, SeedValues]:
    """Each statistic over the seeds of a method; a seed without a value is left out."""
    from ..measurements.steps import context_steps

    by_seed = {seed: statistics(context_steps(run)) for seed, run in sorted(methods[method].items())}
    found = {}
    for name in next(iter(by_seed.values()), {}):
        known = {seed: values[name] for seed, values in by_seed.items() if np.isfinite(values[name])}
        left_out = {seed: "no context has a value" for seed in by_seed if seed not in known}
        values = np.array(list(known.values()))
        found[name] = SeedValues(name, "after one update", tuple(known), values, left_out)
    return found


def _said(
    methods: Methods,
    condition: str,
    method: str,
    statistics: Statistics,
    said: Sequence[Said],
    besides: Mapping[str, str],
) -> Decision:
    """The claim about a method: all that is said of its statistics, with others reported beside them."""
    found = _of(methods, method, statistics)
    parts = [
        Part(says, replace(found[name], label=f"{label}, {method}"), bound, above=above, unit=unit)
        for name, label, says, bound, above, unit in said
    ]
    decision = all_of(parts, condition)
    more = tuple(
        replace(found[name], label=f"{label}, {method}").effect(condition=condition) for name, label in besides.items()
    )
    rows = [(name, seed, value) for name, v in found.items() for seed, value in zip(v.seeds, v.values, strict=True)]
    table: dict[str, list[Any]] = {
        "method": [method] * len(rows),
        "statistic": [row[0] for row in rows],
        "seed": [row[1] for row in rows],
        "value": [float(row[2]) for row in rows],
    }
    return replace(decision, effects=(*decision.effects, *more), tables={**decision.tables, "seeds": table})


def _decided(evidence: Evidence, decide: Callable[[Methods, str], Mapping[str, Decision]], exact: str = "") -> Decision:
    """Over the three studies. A run that diverged in its first steps leaves its seed out of the intervals."""
    parts: dict[str, Decision] = {}
    for study in STEPS:
        parts |= decide(evidence.methods(study), study.name)
        if diverged := evidence.diverged(study):
            exact = f"{exact} In {study.name}, runs diverged: {diverged}.".strip()
    decision = together(parts)
    return replace(decision, reason=f"{exact} {decision.reason}".strip())


def _g1(evidence: Evidence) -> Decision:
    from ..measurements.logit_gradients import table_errors, transformer_errors

    on_tables = table_errors()
    if on_tables > _EXACT:
        raise RuntimeError(f"the closed forms of the logit gradients are not those of autograd: {on_tables:.3g}")
    parts: dict[str, Decision] = {}
    columns: dict[str, list[object]] = {name: [] for name in ("method", "form", "seed", "error", "shuffled", "tokens")}
    for (name, form), rows in transformer_errors("path", _SEEDS, evidence.progress).items():
        greatest, null = float(rows[:, 0].max()), float(np.median(rows[:, 1]))
        label = f"greatest relative difference, {name.upper()}"
        effect = Effect(
            label, greatest, greatest, greatest, n=len(rows), condition=f"{form} form", margin=_EXACT, kind="exact"
        )
        text = f"With π_v shuffled between the alternatives the median difference is {null:.2g}."
        found = falls_below(effect, _EXACT)
        parts[f"{name.upper()}, {form} form"] = replace(found, reason=f"{found.reason} {text}")
        for seed, (error, shuffled, tokens) in enumerate(rows):
            for column, value in zip(
                columns, (name.upper(), form, seed, float(error), float(shuffled), int(tokens)), strict=True
            ):
                columns[column].append(value)
    decision = combined(parts)
    reason = f"On tables the greatest relative difference is {on_tables:.1g}. {decision.reason}"
    return replace(decision, reason=reason, tables={"tokens": columns})


def _g2_parts(methods: Methods, condition: str) -> dict[str, Decision]:
    from ..measurements.steps import proportion_statistics

    said: list[Said] = [
        ("all", "R² of Δz on π_v, signed", "that most of the steps of other logits follows π_v", _R_SQUARED, True, "")
    ]
    besides = {"head": "R² among the ten most probable", "tail": "R² among the others"}
    return {condition: _said(methods, condition, NSR, proportion_statistics, said, besides)}


def _g3_parts(methods: Methods, condition: str) -> dict[str, Decision]:
    from ..measurements.steps import flow_statistics

    said: list[Said] = [
        ("gain", "mass that moves at alternatives: share gained", "that alternatives gain", _GAIN, True, ""),
        (
            "toward_plausible",
            "correlation of Δπ_v with π_v",
            "that the plausible ones gain most",
            _CORRELATION,
            True,
            "",
        ),
    ]
    besides = {
        "boundary": "moving mass on the predicted side of c − π_y, less with shuffled π_v",
        "rest_entropy": "change of the entropy of the alternatives in nats",
    }
    return {condition: _said(methods, condition, NSR, flow_statistics, said, besides)}


def _g4_parts(methods: Methods, condition: str) -> dict[str, Decision]:
    from ..measurements.steps import fall_statistics

    said: list[Said] = [
        ("falling", "fraction of alternatives that fall", "that nearly all alternatives fall", _FALLING, True, "")
    ]
    besides = {
        "lost": "mass that moves at alternatives: share lost",
        "falling_above": "fraction that falls above c − π_y",
        "falling_below": "fraction that falls below c − π_y",
    }
    return {condition: _said(methods, condition, PSR, fall_statistics, said, besides)}


def _g5_parts(methods: Methods, condition: str) -> dict[str, Decision]:
    from ..measurements.steps import protection_slopes

    said: list[Said] = [
        ("log_odds", "slope of log |Δ log-odds| on log(1 − π_y)", "that steps shrink with 1 − π_y", _SLOPE, True, "")
    ]
    besides = {"logit": "the same of the logit", "probability": "the same of the probability"}
    return {
        f"{condition}, {method}": _said(methods, condition, method, protection_slopes, said, besides)
        for method in (NSR, PSR)
    }


def _g6_parts(methods: Methods, condition: str) -> dict[str, Decision]:
    from ..measurements.steps import order_statistics

    said: list[Said] = [
        (
            "sharpened",
            "pairs of alternatives: share that moves towards the more probable",
            "that the prior's favourites gain on the others",
            _SHARPENED,
            True,
            "",
        ),
        (
            "reordered_excess",
            "share of pairs reordered, less with shuffled steps",
            "that the prior's order is kept",
            0.0,
            False,
            "",
        ),
    ]
    besides = {"reordered": "share of pairs reordered"}
    return {condition: _said(methods, condition, NSR, order_statistics, said, besides)}


def _g2(evidence: Evidence) -> Decision:
    return _decided(evidence, _g2_parts, "On a table R² is 1: Eqs. 7 and 8 say so, and G1 checks them.")


def _g3(evidence: Evidence) -> Decision:
    from ..measurements.own_step import check_boundary, rest_entropy_falls

    found = check_boundary()
    rest_entropy_falls()
    text = (
        "On tables a small step of NSR raises exactly the alternatives with π_v > c − π_y and always lowers the "
        f"entropy of the alternatives; {found['below']:.0%} of the alternatives lie below this boundary and lose."
    )
    decision = _decided(evidence, _g3_parts, text)
    return replace(decision, effects=(*decision.effects, *_by_verdict(evidence)))


def _by_verdict(evidence: Evidence) -> list[Effect]:
    """What correct and wrong alternatives gain under NSR, in each study."""
    from ..measurements.continuations import continuation_flows

    effects = []
    for study in STEPS:
        found = {seed: continuation_flows(run) for seed, run in sorted(evidence.methods(study)[NSR].items())}
        for name in ("correct", "wrong"):
            known = {seed: flow[name] for seed, flow in found.items() if np.isfinite(flow[name])}
            label = f"change of the mass of {name} alternatives, {NSR}"
            values = SeedValues(label, "after one update", tuple(known), np.array(list(known.values())), {})
            effects.append(values.effect(condition=study.name))
    return effects


def _g4(evidence: Evidence) -> Decision:
    from ..measurements.own_step import check_boundary

    found = check_boundary()
    text = (
        "On tables every other logit falls, but the probabilities of alternatives with π_v < c − π_y rise: "
        f"{found['below']:.0%} of them, in {found['tables']:.0%} of the tables."
    )
    return _decided(evidence, _g4_parts, text)


def _g5(evidence: Evidence) -> Decision:
    return _decided(evidence, _g5_parts)


def _g6(evidence: Evidence) -> Decision:
    from ..measurements.own_step import check_order

    text = (
        "On tables a step of NSR reorders no pair of alternatives at any size, and a step of PSR of 20 reorders "
        f"{check_order():.0%}."
    )
    return _decided(evidence, _g6_parts, text)


CLAIMS = (
    Claim(
        id="G1",
        family="gradients",
        title="Logit gradients of PSR and NSR",
        statement="A positive sample raises its own logit by π_y(1 − π_y) and lowers every other one by π_y·π_v; a "
        "negative sample does the opposite. In the ratio form the first factor π_y is replaced by π_y/π_old,y.",
        source="2506.01347, Eqs. 7 and 8, Appendix A",
        hypothesis="Automatic differentiation of the objectives gives these numbers.",
        statistic="The greatest ‖autograd − closed form‖ / ‖closed form‖ over tokens, in float64, and the median of "
        "the same with π_v shuffled between the alternatives.",
        margin=f"{_EXACT:g}: float64 leaves about ten digits where 1 − π_y is at least 1e-6",
        rule="Holds where the greatest difference lies below the margin for both signs and both forms, fails where it "
        "lies above for all, depends where for some. A difference on tables stops the command.",
        conditions=f"256 random tables; the responses of four bases of path to 32 validation prompts, {_SEEDS} seeds.",
        practice="Use the closed form: one token's push is one direction, e_y − π, times one number.",
        decide=_g1,
        theorem=True,
        seconds=30.0,
    ),
    Claim(
        id="G2",
        family="gradients",
        title="NSR raises logits in proportion to probability",
        statement="When NSR pushes a token down, the logits of the other tokens rise in proportion to their "
        "probabilities.",
        source="2506.01347, section 4.2, Eq. 8",
        hypothesis="Across the alternatives of a context, the steps of logits lie on a rising line in π_v.",
        statistic="R² of Δz_v on π_v over the tokens other than y, with an intercept since logits have a free "
        "constant, negative where the line falls; mean over contexts. Steps shuffled between tokens give 0. Besides, "
        "for the ten most probable alternatives and for the others.",
        margin=f"{_R_SQUARED:g}: most of the variance",
        rule="Holds where the interval of R² lies above the margin under SGD and AdamW, fails where it lies below in "
        "all conditions, depends where the optimisers or the forms differ.",
        conditions=_CONDITIONS,
        practice="Where it fails, do not read the redistribution of a real update off one token's gradient: the rest "
        "of the batch and the optimiser move the context as well. Predict it by a JVP with the actual step.",
        decide=_g2,
        studies=STEPS,
        seconds=20.0,
        judge=lambda methods: judged(methods, _g2_parts, NSR),
        tables=("flows", "contexts"),
    ),
    Claim(
        id="G3",
        family="gradients",
        title="NSR moves mass to plausible alternatives",
        statement="NSR takes probability from a wrong token and gives it to the alternatives that the model finds "
        "plausible.",
        source="2506.01347, section 4.2",
        hypothesis="The alternatives gain, and those that were more probable gain more.",
        statistic="Of the probability that moves at alternatives in contexts of wrong responses, the share that is "
        "gained; and the correlation of the gain with π_v over alternatives, mean over contexts, 0 for shuffled steps. "
        "Besides, how much more mass moves on the side of π_v = c − π_y that the token's own step predicts than with "
        "shuffled π_v, the change of the entropy of the alternatives, and what the alternatives gain that a correct "
        "response can continue with, and the others.",
        margin=f"{_GAIN:g} of the moving mass, and a correlation of {_CORRELATION:g}",
        rule="Holds where both intervals lie above their margins in all conditions; fails in a condition where one "
        "lies below at the level that allows for two.",
        conditions=_CONDITIONS,
        practice="Expect NSR to sharpen the choice among the alternatives. It does not spread mass evenly over them.",
        decide=_g3,
        theorem=True,
        studies=STEPS,
        seconds=20.0,
        judge=lambda methods: judged(methods, _g3_parts, NSR),
        tables=("flows", "contexts"),
    ),
    Claim(
        id="G4",
        family="gradients",
        title="PSR suppresses all alternatives",
        statement="PSR raises the sampled token and lowers every alternative.",
        source="2506.01347, section 4.2, Eq. 7",
        hypothesis="In contexts of correct responses nearly every other token becomes less probable.",
        statistic="The fraction of the other tokens whose probability falls, mean over contexts; a step without "
        "relation gives a half. Besides, the share of the moving mass that is lost, and the fraction apart for "
        "alternatives above and below π_v = c − π_y.",
        margin=f"{_FALLING:g} of the alternatives",
        rule="Holds where the interval lies above the margin in all conditions, fails where it lies below in all, "
        "depends where optimisers or forms differ.",
        conditions=_CONDITIONS,
        practice="Where it fails, do not expect PSR to cut the tail: below c − π_y alternatives are fed.",
        decide=_g4,
        theorem=True,
        studies=STEPS,
        seconds=20.0,
        judge=lambda methods: judged(methods, _g4_parts, PSR),
        tables=("flows", "contexts"),
    ),
    Claim(
        id="G5",
        family="gradients",
        title="The factor 1 − π protects confident tokens",
        statement="The gradient of a token has the factor 1 − π_y, so that tokens of which the model is sure hardly "
        "move.",
        source="2506.01347, section 4.2, insight 1",
        hypothesis="The change of the token's log-odds in one update shrinks with 1 − π_y.",
        statistic="Slope of the logarithm of |Δ log-odds| on that of 1 − π_y over contexts, each update with its own "
        "intercept. The token's own step gives about 1, a change that does not depend on π_y gives 0. Besides, the "
        "same of the logit (less the mean of the others), and of the probability, which at high confidence gives 2 "
        "and 1.",
        margin=f"a slope of {_SLOPE:g}, halfway",
        rule="Holds where the interval of the slope lies above the margin for either sign in all conditions, fails "
        "where it lies below in all, depends on sign, optimiser or form where they differ.",
        conditions=_CONDITIONS + " Contexts with 1 − π_y below 1e-6 are left out: float32 does not resolve them.",
        practice="Where it fails, do not rely on the gradient's form to keep confident tokens: Adam rescales it, and "
        "shared parameters move them with the others. Name the quantity: probabilities move little at π_y near 1 "
        "whatever the update does.",
        decide=_g5,
        studies=STEPS,
        seconds=20.0,
        judge=lambda methods: judged(methods, _g5_parts, NSR, PSR),
        tables=("flows", "contexts"),
    ),
    Claim(
        id="G6",
        family="gradients",
        title="NSR reranks alternatives by the prior",
        statement="NSR redistributes by the model's prior: the order among the alternatives is kept, and the more "
        "probable gain on the less probable.",
        source="2506.01347, section 4.2, insight 2",
        hypothesis="Of two plausible alternatives the more probable one gains, and fewer pairs change their order than "
        "with steps of the same size without relation to the prior.",
        statistic="Over pairs of alternatives with π_v of at least 0.001: the share whose log-ratio moves towards the "
        "more probable one, and the share that changes its order less that with the logit steps shuffled between the "
        "alternatives.",
        margin=f"{_SHARPENED:g} of the pairs; 0 for the difference in reordered pairs",
        rule="Holds where the first interval lies above its margin and the second below 0 in all conditions; fails in "
        "a condition where one lies on the other side at the level that allows for two.",
        conditions=_CONDITIONS,
        practice="A change of order among alternatives that were not sampled comes from shared parameters and the rest "
        "of the batch: NSR's own logit step cannot make one.",
        decide=_g6,
        theorem=True,
        studies=STEPS,
        seconds=20.0,
        judge=lambda methods: judged(methods, _g6_parts, NSR),
        tables=("flows", "contexts"),
    ),
)
