"""What became of each policy, in one sentence: healthy, stalled, worse or collapsed, with the criterion.

The change of Pass@1 from the first evaluation to the last is taken on the same held-out prompts of the same run. Its
interval is that of a paired difference: over prompts with one seed, over seeds with several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation import METRICS, interval

if TYPE_CHECKING:
    from .comparison import Comparison

__all__ = ["COLLAPSED", "CRITERIA", "Health", "health", "health_sentence"]

COLLAPSED = 0.5  # a policy whose Pass@1 ends below this fraction of where it started
CRITERIA = {
    "collapsed": "Pass@1 ended below half of where it started",
    "worse": "Pass@1 fell by more than its 95% interval",
    "stalled": "the 95% interval of the change of Pass@1 holds zero",
    "healthy": "Pass@1 rose by more than its 95% interval",
}


class Health(NamedTuple):
    """What became of the policy of one method.

    Attributes:
        label: the method.
        verdict: a key of `CRITERIA`.
        start: Pass@1 at the first evaluation, the mean over test prompts and seeds.
        end: Pass@1 at the last evaluation.
    """

    label: str
    verdict: str
    start: float
    end: float


def health(ends: Comparison) -> list[Health]:
    """One entry for each method that was evaluated after its start, from the evaluations of `Comparison.at_ends`. A
    change on one prompt has no interval and counts as stalled."""
    out = []
    for label, by_seed in ends.members.items():
        changes, starts, last_ones = [], [], []
        for run_id in by_seed.values():
            rows = ends.params.rows(ends.evals[run_id].query("split == 'test'"))
            values = METRICS["pass@1"].values(rows)
            by_step = pd.Series(values, index=[rows["step"], rows["prompt_id"]]).dropna().unstack(0)
            first, last = by_step.columns[0], by_step.columns[-1]
            both = by_step[[first, last]].dropna()
            if first == last or both.empty:
                continue
            starts.append(both[first].mean())
            last_ones.append(both[last].mean())
            changes.append((both[last] - both[first]).to_numpy())
        if changes:
            start, end = float(np.mean(starts)), float(np.mean(last_ones))
            out.append(Health(label, _verdict(changes, start, end), start, end))
    return out


def health_sentence(found: Sequence[Health]) -> str:
    """All methods by verdict, the worst first.

    >>> print(health_sentence([Health("PSR", "healthy", 0.33, 0.5), Health("NSR", "collapsed", 0.33, 0.0)]))
    Collapsed (Pass@1 ended below half of where it started): NSR (0.330 to 0.000). A smaller learning rate (optimizer.lr) may help. Healthy (Pass@1 rose by more than its 95% interval): PSR (0.330 to 0.500).
    """  # noqa: E501 - a sentence of one line
    sentences = []
    for verdict, criterion in CRITERIA.items():
        members = [f"{one.label} ({one.start:.3f} to {one.end:.3f})" for one in found if one.verdict == verdict]
        if members:
            sentences.append(f"{verdict.capitalize()} ({criterion}): {', '.join(members)}.")
            if verdict in ("collapsed", "worse"):
                sentences.append("A smaller learning rate (optimizer.lr) may help.")
    return " ".join(dict.fromkeys(sentences))


def _verdict(changes: Sequence[np.ndarray], start: float, end: float) -> str:
    if end < COLLAPSED * start:
        return "collapsed"
    if len(changes) > 1:
        change = interval([values.mean() for values in changes], over="seeds")
    elif len(changes[0]) > 1:
        change = interval(changes[0], method="t")
    else:
        return "stalled"
    if not math.isfinite(change.low) or change.low <= 0 <= change.high:
        return "stalled"
    return "healthy" if change.estimate > 0 else "worse"
