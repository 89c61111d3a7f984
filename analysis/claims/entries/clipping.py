"""The entry about the sides of the clip: F2, and with it whether NSR's entropy needs clipping and reuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..claim import Claim, Decision, Effect
from ..comparisons import MATCHING_TEXT, MATCHINGS, compare, metric_text, since_start
from ..conjunctions import Part, all_of, require, together
from ..evidence import Evidence, Methods
from ..study import GRPO, METHODS, NSR, Study

__all__ = ["CLAIMS"]

_MARGIN = 0.02  # nats
_METRICS = ("entropy_fixed", "entropy_own")
_SIDES: dict[str, dict[str, Any]] = {
    "none": {"objective.clip_low": "unset", "objective.clip_high": "unset"},
    "low": {"objective.clip_low": 0.2, "objective.clip_high": "unset"},
    "high": {"objective.clip_low": "unset", "objective.clip_high": 0.2},
    "both": {"objective.clip_low": 0.2, "objective.clip_high": 0.2},
}
_REWARDS: dict[str, dict[str, Any]] = {
    "true reward": {},
    "random reward": {"task.false_positive": 0.5, "task.false_negative": 0.5},
}
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "SGD": {"optimizer.name": "sgd", "optimizer.lr": 0.06, "optimizer.max_grad_norm": "unset"},
}
# Four minibatches, each used twice: eight updates for each batch.
_REUSE: dict[str, Any] = {"eval.every": 5, "update.epochs": 2, "steps": 15}
_RANDOM = "random reward"


def _clip(side: str) -> str:
    return f"clip {side}"


_STUDIES = tuple(
    Study(
        f"path, {optimizer}, {reward}",
        "default",
        {_clip(side): {**METHODS[GRPO], **fields} for side, fields in _SIDES.items()},
        {**_REUSE, **of_optimizer, **of_reward},
        seeds=4,
    )
    for optimizer, of_optimizer in _OPTIMIZERS.items()
    for reward, of_reward in _REWARDS.items()
)
# The released code's question: is NSR's entropy its own, or that of a clip under many updates for each batch?
_ONE, _CLIPPED = "NSR, one update, no clip", "NSR, eight updates, clip both"
_NSR_ALONE = {_ONE: {"update.epochs": 1, "update.minibatches": 1, **_SIDES["none"]}, _CLIPPED: _SIDES["both"]}
_NSR_STUDY = Study(
    "path, AdamW, NSR",
    "default",
    {
        **{name: {**METHODS[NSR], **fields} for name, fields in _NSR_ALONE.items()},
        "NSR, eight updates, no clip": {**METHODS[NSR], **_SIDES["none"]},
    },
    _REUSE,
    seeds=4,
)


def _clip_moves_entropy(methods: Methods, name: str, *, random: bool = False) -> Mapping[str, Decision]:
    """Entropy with one side of the clip less that without, for prefixes of either kind.

    Random rewards leave no Pass@1 to match, and updates are as many as steps: they are compared at equal steps alone.
    """
    require(methods, [_clip(side) for side in ("none", "low", "high")])
    found = {}
    for metric in _METRICS:
        for at in ("step",) if random else MATCHINGS:
            condition = f"{name}, {metric_text(metric)}, {MATCHING_TEXT[at]}"
            gaps = {
                side: compare(methods, _clip(side), _clip("none"), [metric], at)[metric]
                for side in _SIDES
                if side != "none" and methods.get(_clip(side))
            }
            parts = [
                Part("the lower clip raises entropy", gaps["low"], _MARGIN, unit="nats"),
                Part("the upper clip lowers entropy", gaps["high"], -_MARGIN, above=False, unit="nats"),
            ]
            decision = all_of(parts, condition)
            if "both" in gaps:  # beside the verdict
                effect = gaps["both"].effect(condition=condition, unit="nats")
                decision = replace(decision, effects=(*decision.effects, effect))
            if at == "step":
                decision = replace(decision, tables={**decision.tables, "clipped": _clipped(methods)})
            found[condition] = decision
    return found


def _clipped(methods: Methods) -> dict[str, list[Any]]:
    """Of each run the mean share of tokens that each side held, and the change of entropy for each update."""
    columns = ("method", "seed", "held_below", "held_above", "updates", "entropy_change", "entropy_change_per_update")
    table: dict[str, list[Any]] = {name: [] for name in columns}
    for method, runs in methods.items():
        if not runs:
            continue
        change = since_start(methods, method, ["entropy_fixed"])["entropy_fixed"]
        for row, seed in enumerate(change.seeds):
            updates = runs[seed].table("updates", ["update", "clip_low_neg", "clip_high_pos"])
            moved = float(change.values[row].mean())
            entry = (
                method,
                seed,
                float(updates["clip_low_neg"].mean()),
                float(updates["clip_high_pos"].mean()),
                len(updates),
                moved,
                moved / max(len(updates), 1),
            )
            for column, value in zip(columns, entry, strict=True):
                table[column].append(value)
    return table


def _nsr_needs_clipping(methods: Methods) -> Decision:
    """Issue 6 of the released code: NSR's entropy rises with clipping and many updates, and not without."""
    metric = "entropy_fixed"
    gain, alone = (since_start(methods, name, [metric])[metric] for name in (_CLIPPED, _ONE))
    parts = [
        Part("a rise with clipping and reuse", gain, _MARGIN, unit="nats"),
        Part("no rise without", alone, _MARGIN, above=False, unit="nats"),
    ]
    return all_of(parts, _NSR_STUDY.name)


def _f2(evidence: Evidence) -> Decision:
    from ..measurements.clip_sides import clip_effects

    exact = clip_effects()
    parts: dict[str, Decision] = {}
    for study in _STUDIES:
        diverged = evidence.diverged(study)
        random = study.name.endswith(_RANDOM)
        for condition, found in _clip_moves_entropy(evidence.methods(study), study.name, random=random).items():
            parts[condition] = _without_diverged(found, diverged)
    decision = together(parts)
    of_nsr = _nsr_needs_clipping(evidence.methods(_NSR_STUDY))
    listed = list(zip(*exact.values(), strict=True))
    on_tables = tuple(
        Effect(
            f"dH/dη by clip {side} under random rewards, logits moved by {moved}",
            float(rate),
            unit="nats",
            n=0,
            over="tables",
            condition="tables of logits",
            kind="exact",
        )
        for moved, side, rate, _ in listed
        if side != "none"
    )
    answers = {"holds": "is right", "fails": "is refuted", "undecided": "is undecided"}
    reason = (
        "On tables of logits random rewards move nothing in expectation without a clip; the lower clip raises the "
        f"entropy and the upper one lowers it, in the mean over tables. {decision.reason} That NSR's entropy rises "
        "only with clipping and many updates for each batch (issue 6 of the released code) "
        f"{answers[of_nsr.verdict]} here: {of_nsr.reason}"
    )
    tables = {**decision.tables, "tables of logits": exact, "NSR": of_nsr.tables["parts"]}
    effects = (*decision.effects, *of_nsr.effects, *on_tables)
    return replace(decision, reason=reason, effects=effects, tables=tables)


def _without_diverged(decision: Decision, diverged: Mapping[str, list[int]]) -> Decision:
    """What holds where runs diverged is undecided: the runs that are left are not a fair sample."""
    if not diverged:
        return decision
    listed = ", ".join(f"{len(seeds)} of {method}" for method, seeds in diverged.items())
    reason = f"Runs diverged: {listed}. {decision.reason}"
    if decision.verdict != "holds":
        return replace(decision, reason=reason)
    return replace(decision, verdict="undecided", reason=reason, missing="runs that do not diverge")


CLAIMS = (
    Claim(
        id="F2",
        family="field",
        title="Clipping moves entropy whatever the reward",
        statement="The lower clip of the ratio raises entropy and the upper clip lowers it, even where rewards are "
        "random and say nothing.",
        source="2509.26114 and 2512.16912, both seen as abstracts; issue 6 of the released code of 2506.01347",
        hypothesis="With the lower clip alone entropy ends higher than without a clip, and with the upper clip alone "
        "lower, under true and under random rewards.",
        statistic="Entropy at temperature 1 on fixed prefixes and on own responses, clip low (and high) less none, "
        "paired by seed. Beside it: the share of tokens that each side held, the change of entropy for each update, "
        "and the change under NSR with one update and no clip, and with eight updates and a clip. On tables of logits, "
        "the exact rate at which each side changes entropy under random rewards.",
        margin=f"{_MARGIN:g} nats",
        rule="Holds where the interval for the lower clip lies above the margin and that for the upper clip below "
        "minus the margin; fails where one of the two lies on the other side of its bound by the simultaneous interval "
        "of both; depends on optimiser, reward or prefixes where some hold. Where runs diverge, what holds is "
        "undecided. A gradient on tables that differs from the closed form stops the entry.",
        conditions="path, GRPO with the ratio form, 15 steps of four minibatches that are used twice, clip at 0.2, "
        "true rewards and fair coins, AdamW (1.5e-4) and SGD (0.06), 4 seeds with a base each. Equal steps are equal "
        "updates. At equal Pass@1 too under true rewards; random rewards leave none to match.",
        practice="Set the two sides of the clip apart: they are knobs of entropy, not only of safety. Without reuse "
        "they do nothing.",
        decide=_f2,
        theorem=True,
        studies=(*_STUDIES, _NSR_STUDY),
        seconds=10.0,
        judge=lambda methods: together(_clip_moves_entropy(methods, "your runs")),
        tables=("evals", "updates"),
    ),
)
