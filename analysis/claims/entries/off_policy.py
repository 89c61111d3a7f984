"""The entry about baselines on rollouts of an older policy: F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..claim import Claim, Decision, Effect
from ..comparisons import MATCHING_TEXT, MATCHINGS, compare, since_start
from ..conjunctions import Part, all_of, require, together
from ..evidence import Evidence, Methods
from ..study import Study

__all__ = ["CLAIMS"]

_METRIC = "log_effective_solutions"
_MARGIN = 0.2  # nats: a fifth of the correct responses that the policy still gives
_BELOW, _LOWER, _AT, _ABOVE = 0.0, 0.3, 0.6, 0.9  # V, beside an accuracy of 0.6
_FORMS: dict[str, dict[str, Any]] = {
    "log": {"objective.form": "log", "objective.clip_low": "unset", "objective.clip_high": "unset"},
    "ratio": {"objective.form": "ratio", "objective.clip_low": "unset", "objective.clip_high": "unset"},
    "ratio and clip": {"objective.form": "ratio", "objective.clip_low": 0.2, "objective.clip_high": 0.2},
}
# steps after which the policy that samples is renewed, and what they are called; 0: the base samples throughout
_REFRESH = {0: "base samples", 16: "renewed every 16 steps", 4: "renewed every 4 steps", 1: "on-policy"}


def _method(form: str, baseline: float, refresh: int = 0) -> str:
    return f"{form}, V = {baseline:g}, {_REFRESH[refresh]}"


def _fields(form: str, baseline: float, refresh: int) -> dict[str, Any]:
    """The advantage r − V in this form."""
    return {
        "objective.name": "psr",
        "objective.advantage": "constant",
        "objective.baseline": baseline,
        "rollout.refresh_every": refresh,
        **_FORMS[form],
    }


_GRID = (
    *(("log", baseline, 0) for baseline in (_BELOW, _LOWER, _AT, _ABOVE)),
    *((form, baseline, 0) for form in ("ratio", "ratio and clip") for baseline in (_BELOW, _ABOVE)),
    *((form, baseline, refresh) for form in _FORMS for refresh in (16, 4, 1) for baseline in (_BELOW, _ABOVE)),
)
_STUDY = Study(
    "path-p60",
    "default",
    {_method(*cell): _fields(*cell) for cell in _GRID},
    {"policy.base": "path-p60", "steps": 24, "eval.every": 4},
    seeds=4,
)


def _collapses_above_alone(methods: Methods, name: str, refresh: int, diverged: int = 0) -> Mapping[str, Decision]:
    """The log form on rollouts of this age: V above the accuracy loses correct responses, V below it keeps them.

    Where half of the runs with V above the accuracy diverged they count as collapsed.
    """
    above, below = _method("log", _ABOVE, refresh), _method("log", _BELOW, refresh)
    kept = Part(
        "V below the accuracy keeps the base's correct responses",
        since_start(methods, below, [_METRIC])[_METRIC],
        -_MARGIN,
        unit="nats",
    )
    found = {}
    for at in MATCHINGS:
        condition = f"{name}, {_REFRESH[refresh]}, {MATCHING_TEXT[at]}"
        if 2 * diverged >= _STUDY.seeds:
            decision = all_of([kept], condition)
            reason = f"{diverged} runs with V = {_ABOVE:g} diverged and count as collapsed. {decision.reason}"
            found[condition] = replace(decision, reason=reason)
            continue
        lost = compare(methods, above, below, [_METRIC], at)[_METRIC]
        parts = [Part("V above the accuracy loses correct responses", lost, -_MARGIN, above=False, unit="nats"), kept]
        found[condition] = all_of(parts, condition)
    return found


def _ratio_removes_it(methods: Methods) -> Mapping[str, Decision]:
    """With V above the accuracy, at each age of the rollouts: a ratio keeps more correct responses than none.

    Ages at which one of the three forms has no run left are passed over.
    """
    found = {}
    for refresh, age in _REFRESH.items():
        if not all(methods.get(_method(form, _ABOVE, refresh)) for form in _FORMS):
            continue
        without = _method("log", _ABOVE, refresh)
        for form in ("ratio", "ratio and clip"):
            gap = compare(methods, _method(form, _ABOVE, refresh), without, [_METRIC], "step")[_METRIC]
            condition = f"{form}, {age}"
            found[condition] = all_of([Part(f"the {form} keeps more", gap, _MARGIN, unit="nats")], condition)
    return found


def _changes(methods: Methods) -> tuple[tuple[Effect, ...], dict[str, list[Any]]]:
    """Of each cell that has runs, what became of the correct responses and of Pass@1, with t intervals over seeds."""
    from ...evaluation import interval

    columns = ("form", "baseline", "refresh", "seed", "effective_change", "pass_at_1", "pass_at_1_change")
    table: dict[str, list[Any]] = {name: [] for name in columns}
    effects = []
    for form, baseline, refresh in _GRID:
        method = _method(form, baseline, refresh)
        if not methods.get(method):
            continue
        found = since_start(methods, method, [_METRIC, "pass@1"])
        per_seed = found[_METRIC].values.mean(axis=1)
        for row, seed in enumerate(found[_METRIC].seeds):
            change = float(found["pass@1"].values[row].mean())
            end = _last_accuracy(methods, method, seed)
            entry = (form, baseline, refresh, seed, float(per_seed[row]), end, change)
            for column, value in zip(columns, entry, strict=True):
                table[column].append(value)
        mean = interval(per_seed, over="seeds")
        effects.append(
            Effect(
                "change of log effective solutions",
                mean.estimate,
                mean.low,
                mean.high,
                "nats",
                len(per_seed),
                condition=method,
                kind=str(mean.kind),
                reason=mean.reason,
            )
        )
    return tuple(effects), table


def _last_accuracy(methods: Methods, method: str, seed: int) -> float:
    from ..measurements.curves import levels

    found = levels(methods, method, "pass@1")
    return float(found.values[found.seeds.index(seed)].mean())


def _told(table: Mapping[str, Sequence[float]]) -> str:
    """The limits on the table in words."""
    rows = zip(*(table[name] for name in ("baseline", "arm_1", "arm_2", "arm_3")), strict=True)
    return "; ".join(f"V = {v:g}: ({', '.join(f'{arm:.3f}' for arm in arms)})" for v, *arms in rows)


def _f1(evidence: Evidence) -> Decision:
    from ..measurements.off_policy_limits import exact_limits

    exact = exact_limits()
    methods, diverged = evidence.methods(_STUDY), evidence.diverged(_STUDY)
    parts: dict[str, Decision] = {}
    for refresh in (0, 16):
        of_above = len(diverged.get(_method("log", _ABOVE, refresh), ()))
        of_below = len(diverged.get(_method("log", _BELOW, refresh), ()))
        for condition, found in _collapses_above_alone(methods, _STUDY.name, refresh, of_above).items():
            if of_below and found.verdict == "holds":
                text = f"{of_below} runs with V = {_BELOW:g} diverged. {found.reason}"
                found = replace(found, verdict="undecided", reason=text, missing="runs that do not diverge")
            parts[condition] = found
    decision = together(parts)
    ratio = _ratio_removes_it(methods)
    effects, table = _changes(methods)
    words = {"holds": "keeps more correct responses", "fails": "does not", "undecided": "may or may not keep more"}
    by_word: dict[str, list[str]] = {}
    for name, found in ratio.items():
        by_word.setdefault(words[found.verdict], []).append(name)
    of_ratio = ", ".join(
        f"{word} in {len(names)} of {len(ratio)} forms and ages ({'; '.join(names)})" for word, names in by_word.items()
    )
    lost = "; ".join(f"{len(seeds)} of {method}" for method, seeds in diverged.items()) or "none"
    reason = (
        f"On a table with p = 0.6 the correct arms end at {_told(exact)}; the base given a correct response is the row "
        f"V = 0. {decision.reason} With V = {_ABOVE:g}, against the log form, a ratio "
        f"{of_ratio or 'cannot be judged: too few runs are left'}. Diverged runs: {lost}."
    )
    listed = (*decision.effects, *(effect for found in ratio.values() for effect in found.effects), *effects)
    tables = {**decision.tables, "table of logits": exact, "grid": table}
    return replace(decision, reason=reason, effects=listed, tables=tables)


def _judged(methods: Methods) -> Decision:
    wanted = [_method("log", baseline) for baseline in (_ABOVE, _BELOW)]
    require(methods, wanted)
    return together(_collapses_above_alone(methods, "your runs", 0))


CLAIMS = (
    Claim(
        id="F1",
        family="field",
        title="A baseline above the accuracy collapses the support",
        statement="On rollouts of an older policy and without a ratio, a constant baseline V at or above the accuracy "
        "ends on few correct responses, and one below the accuracy does not. PSR is V = 0, NSR is V = 1, and "
        "W-REINFORCE is V = 1/(1 + λ), so PSR keeps the diversity and NSR loses it: the reverse of the usual picture.",
        source="2506.20520 (AsymRE), theorems on the limit; its reading for PSR and NSR is derived here",
        hypothesis="With rollouts of the base, V = 0.9 loses correct responses against V = 0, which keeps those of the "
        "base; with a ratio less is lost.",
        statistic="Log effective solutions, which is the entropy of the distribution given a correct response: V = 0.9 "
        "less V = 0, and V = 0 less the base, on test prompts. Beside the verdict: V = 0.3 and 0.6 on rollouts of the "
        "base; renewal every 4 steps and on-policy; and at each of the four ages the ratio with and without a clip. "
        "On a table of six arms the limit for each V.",
        margin=f"{_MARGIN:g} nats, a fifth of the effective solutions",
        rule="Holds where the interval of the loss under V = 0.9 lies below minus the margin and that of the change "
        "under V = 0 above it; fails where one lies on the other side by the simultaneous interval of both; depends "
        "on the age of the rollouts where the two ages differ. Where half of the runs with V = 0.9 diverge they count "
        "as collapsed; runs with V = 0 that diverge leave it undecided. Training on the table that ends elsewhere "
        "than the closed form stops the entry.",
        conditions="path-p60 (accuracy 0.6), AdamW, regime B, 24 steps, rollouts of the base throughout or of a "
        "policy that is renewed every 16 steps, 4 seeds with a base each; equal steps, updates and Pass@1.",
        practice="With stale rollouts keep a ratio, or keep the baseline below the accuracy of the policy that "
        "sampled. Where the two part, the age of the rollouts decides more than the sign of the samples.",
        decide=_f1,
        theorem=True,
        studies=(_STUDY,),
        seconds=5.0,
        judge=_judged,
        tables=("evals",),
    ),
)
