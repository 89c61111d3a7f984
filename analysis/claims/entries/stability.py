"""Entries about how training is stable and with what optimiser: F5 (positives alone)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import UsageError
from ...records import Run
from ..claim import Claim, Decision
from ..conjunctions import Part, SeedValues, all_of
from ..evidence import Evidence, Methods
from ..studies import LONG
from ..study import GRPO, NSR, PSR, W_REINFORCE

__all__ = ["CLAIMS"]

# -- F5 ----------------------------------------------------------------------------------------------------------------

POSITIVE = (PSR, "WAPO", "RAFT++")
NEGATIVE = (NSR, W_REINFORCE, GRPO)
_AFTER = 0.01  # of Pass@1
_RATIO = math.log(1.1)  # a tenth
_BURST = 0.99


def _burst(run: Run) -> float:
    """Log of the 99% quantile of the gradient norms of all updates over their median."""
    norms = run.table("updates", ["update", "grad_norm_total"])["grad_norm_total"].dropna().to_numpy(dtype=np.float64)
    norms = norms[norms > 0]
    if not len(norms):
        raise UsageError(
            f"run {run.run_id}: expected gradient norms in the table updates, got none; train it for a step"
        )
    return float(np.log(np.quantile(norms, _BURST) / np.median(norms)))


def _gap(values: Mapping[str, Mapping[int, float]], label: str, at: str) -> SeedValues:
    """Mean over methods that learn from positives less the mean over the others, of the seeds that all have."""
    seeds = sorted(set.intersection(*(set(of_method) for of_method in values.values())))
    everything = set().union(*values.values())
    missing = dict.fromkeys(sorted(everything - set(seeds)), "one of the runs is missing or diverged")
    gaps = [
        float(np.mean([values[name][seed] for name in values if name in POSITIVE]))
        - float(np.mean([values[name][seed] for name in values if name in NEGATIVE]))
        for seed in seeds
    ]
    return SeedValues(label, at, tuple(seeds), np.array(gaps), missing)


def _positives_are_stable(methods: Methods, name: str) -> Decision:
    """Less is lost after the peak, and gradients burst less, than with methods that push wrong responses down."""
    from ..measurements.peaks import after_peak

    present = [method for method in (*POSITIVE, *NEGATIVE) if len(methods.get(method, ())) >= 2]
    for group in (POSITIVE, NEGATIVE):
        if not set(group) & set(present):
            raise UsageError(
                f"methods: expected two finished runs or more of one of {', '.join(group)}, got "
                f"{', '.join(methods) or 'none'}; the claim compares methods with and without negative samples"
            )
    found = {method: after_peak(methods, method, "pass@1") for method in present}
    changes = {
        method: dict(zip(peak.change.seeds, peak.change.values.mean(axis=1).tolist(), strict=True))
        for method, peak in found.items()
    }
    bursts = {method: {seed: _burst(run) for seed, run in methods[method].items()} for method in present}
    text = "positives alone − with negatives"
    parts = [
        Part(
            "positives alone lose less after the peak",
            _gap(changes, f"change of Pass@1 after the peak: {text}", "to 3× its step"),
            _AFTER,
        ),
        Part(
            "positives alone burst less",
            _gap(bursts, f"log of 99% quantile over median of gradient norms: {text}", "over the run"),
            -_RATIO,
            above=False,
        ),
    ]
    decision = all_of(parts, name)
    columns = ("method", "positives_alone", "seed", "peak", "end", "change", "change_per_10_steps", "log_burst")
    table: dict[str, list[Any]] = {column: [] for column in columns}
    for method, peak in found.items():
        for seed, change in changes[method].items():
            steps = peak.ends[seed] - peak.peaks[seed]
            slope = 10 * change / steps if steps else 0.0
            ends = (peak.peaks[seed], peak.ends[seed])
            row = (method, method in POSITIVE, seed, *ends, change, slope, bursts[method][seed])
            for column, value in zip(columns, row, strict=True):
                table[column].append(value)
    return replace(decision, tables={**decision.tables, "stability": table})


def _f5(evidence: Evidence) -> Decision:
    methods, diverged = evidence.methods(LONG), evidence.diverged(LONG)
    lost = {group: sum(len(diverged.get(name, ())) for name in group) for group in (POSITIVE, NEGATIVE)}
    total = len(POSITIVE) * LONG.seeds
    text = f"Of {total} runs each, {lost[POSITIVE]} diverged with positives alone and {lost[NEGATIVE]} with negatives."
    excess = lost[NEGATIVE] - lost[POSITIVE]
    if 4 * abs(excess) >= total:
        return Decision("holds" if excess > 0 else "fails", f"{text} That decides.")
    try:
        decision = _positives_are_stable(methods, LONG.name)
    except UsageError as error:  # too few runs are left
        return Decision("undecided", f"{text} {error}", missing="two runs of each group that do not diverge")
    if excess < 0 and decision.verdict == "holds":
        return replace(decision, verdict="undecided", reason=f"{text} {decision.reason}", missing="runs that end")
    return replace(decision, reason=f"{text} {decision.reason}")


CLAIMS = (
    Claim(
        id="F5",
        family="field",
        title="Learning from positives alone is more stable",
        statement="Methods that learn from correct responses alone (PSR, WAPO, RAFT++) train more stably than those "
        "that push wrong responses down (NSR, W-REINFORCE, GRPO).",
        source="2606.16154 (WAPO) and 2504.11343 (RAFT++), both seen as abstracts",
        hypothesis="Positives alone diverge no more often, lose less Pass@1 after their peak, and have fewer bursts of "
        "the gradient.",
        statistic="Means over the three methods of either kind, paired by seed: the change of exact Pass@1 on test "
        "prompts from the peak, found on validation prompts of the other seeds, to three times its step or to the "
        "end; and the log of the 99% quantile of gradient norms over their median. The share of runs that diverged.",
        margin=f"{_AFTER:g} of Pass@1, a tenth of the ratio of gradient norms, a quarter of the runs",
        rule="Where the numbers of diverged runs differ by a quarter of the runs or more they decide. Else it holds "
        "where the interval of the difference after the peak lies above its margin and that of the gradients below "
        "minus its margin; fails where one lies on the other side by the simultaneous interval of both. Positives "
        "alone that diverge more often leave undecided what else would hold.",
        conditions="path, regime A, AdamW, 120 steps, 4 seeds with a base each. A curve after its own peak has no "
        "second run to match; steps and updates are proportional here.",
        practice="If a long run breaks, look at its negatives first: drop them or weigh them down before you lower the "
        "rate.",
        decide=_f5,
        studies=(LONG,),
        judge=lambda methods: _positives_are_stable(methods, "your runs"),
        tables=("evals", "updates"),
    ),
)
