"""Entry F10: which tokens carry the training, by masks of a fifth or four fifths of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import UsageError
from ...records import Run
from ..claim import Claim
from ..comparisons import MATCHING_TEXT, MATCHINGS, compare
from ..conjunctions import Part, SeedValues, all_of, by_condition, judged
from ..decision import Decision
from ..evidence import Methods
from ..study import GRPO, METHODS, Study

__all__ = ["CLAIMS"]


def _mask(by: str, **bounds: float) -> dict[str, Any]:
    """GRPO on the tokens between two quantiles, at the gradient norm of all tokens."""
    limits = {f"update.mask_{name}": value for name, value in bounds.items()}
    return {**METHODS[GRPO], "update.token_mask": by, "update.mask_norm": "full", **limits}


_TOP, _REST = "highest-entropy fifth", "lower-entropy four fifths"
_RARE, _LIKELY = "lowest-probability fifth", "higher-probability four fifths"
_DOWN, _UP = "fifth pushed down most", "fifth pulled up most"
_MASKED: dict[str, dict[str, Any]] = {
    _TOP: _mask("entropy", low=0.8),
    _REST: _mask("entropy", high=0.8),
    _RARE: _mask("probability", high=0.2),
    _LIKELY: _mask("probability", low=0.2),
    _DOWN: _mask("signed_change", high=0.2),
    _UP: _mask("signed_change", low=0.8),
}
# GRPO itself is a run of the main studies.
_STUDIES = tuple(
    Study(name, recipe, {GRPO: METHODS[GRPO], **_MASKED}, {"eval.every": 5}, seeds=4)
    for name, recipe in (("path, regime B", "default"), ("countdown, regime B", "countdown"))
)
_MARGIN = 0.02
_HALF = 0.5


def _masks(methods: Methods, name: str) -> Mapping[str, Decision]:
    """Whether the highest-entropy fifth suffices, at each matching; whether the improbable tokens dominate the norm."""
    found: dict[str, Decision] = {}
    for at in MATCHINGS:
        condition = f"{name}, high entropy, {MATCHING_TEXT[at]}"
        # at equal Pass@1 only what lies beside Pass@1 can differ
        metrics = ["pass@64"] if at == "pass@1" else ["pass@1", "pass@64"]
        parts = [
            Part(f"the {_TOP} at or above all tokens", gap, -_MARGIN)
            for gap in compare(methods, _TOP, GRPO, metrics, at).values()
        ]
        if at != "pass@1":
            behind = compare(methods, _TOP, _REST, ["pass@1"], at)["pass@1"]
            parts.append(Part(f"the {_TOP} above the other four fifths", behind, _MARGIN))
        found[condition] = all_of(parts, condition)
    first = next(iter(found))
    found[first] = replace(found[first], tables={**found[first].tables, "masks": _gaps(methods)})
    if methods.get(_RARE):
        condition = f"{name}, low probability, gradient norm"
        shares = _kept_norm(methods, _RARE)
        parts = [Part(f"the {_RARE} with more than half of the norm of the whole gradient", shares, _HALF)]
        if methods.get(_LIKELY):
            parts.append(Part(f"the {_RARE} above the {_LIKELY}", _less(shares, _kept_norm(methods, _LIKELY)), 0.0))
        found[condition] = all_of(parts, condition)
    return found


def _kept_norm(methods: Methods, method: str) -> SeedValues:
    """‖gradient of the kept tokens‖ over ‖that of all‖, median over the updates of each run."""
    values = {seed: _share(run) for seed, run in sorted(methods[method].items())}
    label = f"norm of the gradient of the {method} over that of all tokens"
    return SeedValues(label, "median over updates", tuple(values), np.array(list(values.values())), {})


def _share(run: Run) -> float:
    updates = run.table("updates", ["skipped", "mask_scale"])
    scale = updates.loc[~updates["skipped"].astype(bool), "mask_scale"].dropna().to_numpy(dtype=float)
    if not len(scale):
        raise UsageError(
            f"run {run.run_id}: expected updates whose masked gradient was scaled, got none; set update.mask_norm to "
            '"full"'
        )
    return float(np.median(1 / scale))


def _less(first: SeedValues, second: SeedValues) -> SeedValues:
    one, other = (dict(zip(part.seeds, part.values, strict=True)) for part in (first, second))
    seeds = tuple(seed for seed in first.seeds if seed in other)
    values = np.array([one[seed] - other[seed] for seed in seeds])
    return SeedValues(f"{first.label}, less that of the {_LIKELY}", first.at, seeds, values, {})


def _gaps(methods: Methods) -> dict[str, list[Any]]:
    """Each mask less all tokens at equal steps, with intervals: for the figure, beside the verdict."""
    table: dict[str, list[Any]] = {column: [] for column in ("kept", "metric", "value", "low", "high", "seeds")}
    for method in (name for name in _MASKED if methods.get(name)):
        for metric, gap in compare(methods, method, GRPO, ["pass@1", "pass@64"], "step").items():
            effect = gap.effect(condition="")
            row = (method, metric, effect.value, effect.low, effect.high, effect.n)
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


CLAIMS = (
    Claim(
        id="F10",
        family="field",
        title="A fifth of the tokens carries the training",
        statement="The fifth of tokens with the highest entropy is enough to train on and the others are not, and "
        "tokens of low probability dominate the gradient.",
        source="2506.01939 (high-entropy tokens) and 2505.12929 (low-probability tokens); the second seen as an "
        "abstract",
        hypothesis="Training on the highest-entropy fifth ends no worse than training on all tokens and better than "
        "training on the other four fifths, and the fifth of lowest probability gives more than half of the norm of "
        "the whole gradient.",
        statistic="Exact Pass@1 and Pass@64 on test prompts of GRPO with a mask less GRPO, and less GRPO with the "
        "opposite mask, the masked gradient scaled to the norm of the whole one. The norm of the gradient of the "
        "lowest-probability fifth over that of all tokens, median over the updates of a run, and the same less that of "
        "the other four fifths. Beside it, masks by the signed change of the own logit (table masks).",
        margin=f"{_MARGIN:g} in Pass@k, {_HALF:g} of the norm",
        rule="High entropy holds where the intervals lie above minus the margin beside all tokens, and above the "
        "margin in Pass@1 beside the other four fifths; low probability holds where the fraction lies above one half "
        "and above that of the others. Either fails where one part lies on the other side by the simultaneous "
        "interval of its parts. Runs of the highest-entropy fifth that diverged count against the claim.",
        conditions="path and countdown, regime B, 4 seeds with a base each; at equal steps, equal updates and, for "
        "Pass@64, equal Pass@1. Quantiles are over the tokens of a minibatch. One learning rate for all masks.",
        practice="Mask tokens only where training on the fifth alone does no worse on your task, and look at the norm "
        "that a mask takes away before you credit the mask.",
        decide=lambda evidence: by_condition(evidence, _STUDIES, _masks, _TOP),
        studies=_STUDIES,
        judge=lambda methods: judged(methods, _masks, GRPO, _TOP, _REST),
        tables=("evals", "updates"),
    ),
)
