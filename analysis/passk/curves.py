"""Pass@k curves of one or two checkpoints with their intervals, and where two of them cross.

Of a prompt with n samples, c of them correct, Pass@k is estimated by 1 − C(n−c, k)/C(n, k) (`evaluation.pass_at_k`),
and the curve is the mean over prompts. Its interval is that of numbers in [0, 1] over prompts (method success of
`evaluation.interval`), that of the difference of two checkpoints is over the paired differences of the same prompts;
`docs/intervals.md` says how often each covers.

Two curves cross between k and k + 1 where their difference changes sign, linearly interpolated. The interval of a
crossing holds every k around it at which the interval of the difference, both ends interpolated likewise, holds 0
(Fieller's way): where the curves truly cross the difference is 0, so it covers as often as the interval of the
difference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..evaluation import Interval, interval, pass_at_k
from ..evaluation.influence import Spread
from ..evaluation.interval_kinds import Kind
from ..evaluation.intervals import smooth
from .graded import Graded

__all__ = ["CurveCrossing", "PassCurves", "pass_curves"]

_DENSE = 256  # up to here every k
_PER_OCTAVE = 64  # beyond, so many between k and 2 k: a step is about 1%


@dataclass(frozen=True)
class CurveCrossing:
    """A change of sign of the difference of two curves.

    Attributes:
        at: k, between the two whole numbers where the sign changes.
        low: least k of the interval; None where it reaches k = 1, or where there is none.
        high: greatest k; None where it reaches the greatest k of the file, or where there is none.
        above: the checkpoint that is higher at greater k.
        reason: why the crossing has no interval; empty where it has one.
    """

    at: float
    low: float | None
    high: float | None
    above: str
    reason: str = ""


@dataclass(frozen=True)
class PassCurves:
    """Pass@k of one or two checkpoints.

    Attributes:
        names: of the checkpoints.
        prompts: how many prompts every mean is over; of two checkpoints those that both have.
        table: columns label, k, value, low, high, kind and reason, one row for each checkpoint and k.
        difference: the same of the second checkpoint minus the first; empty for one checkpoint.
        crossings: where the curves cross, from the least k up.
        notes: what a reader should know.
    """

    names: tuple[str, ...]
    prompts: int
    table: pd.DataFrame
    difference: pd.DataFrame
    crossings: tuple[CurveCrossing, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"PassCurves({' and '.join(self.names)}; {self.prompts} prompts, k = 1 to {self.table['k'].max()}, "
            f"{len(self.crossings)} crossings)"
        )

    def sentences(self) -> list[str]:
        """What the curves say, in words."""
        if len(self.names) == 1:
            return []
        if self.crossings:
            return [_crossing_words(crossing, self.names) for crossing in self.crossings]
        signs = np.sign(self.difference["value"])
        if not signs.any():
            return ["The curves are the same at every k."]
        higher = self.names[int(signs[signs != 0].iloc[0] > 0)]
        return [f"The curves do not cross: {higher} is higher at every k at which they differ."]

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for an end that is missing."""
        return {
            "names": list(self.names),
            "prompts": self.prompts,
            "pass_at_k": _records(self.table),
            "difference": _records(self.difference),
            "crossings": [vars(crossing) for crossing in self.crossings],
            "sentences": self.sentences(),
            "notes": list(self.notes),
        }


def pass_curves(first: Graded, second: Graded | None = None, *, ks: Sequence[int] | None = None) -> PassCurves:
    """Pass@k with intervals, k = 1 … n, and the paired difference of two checkpoints.

    Args:
        first: graded samples.
        second: those of another checkpoint; prompts that only one of both has are left out, and counted in a note.
        ks: which k; unset: 1 to the fewest samples that a prompt has, beyond k = 256 in steps of about 1%. Crossings
            are sought between neighbours.

    Raises:
        UsageError: no prompt in common, or a k that a prompt has too few samples for.

    Cost: for each k, one vector operation over the distinct counts and the interval of a mean over prompts.

    Example:
        >>> graded = Graded("base", ("a", "b"), np.array([4, 4]), np.array([1, 4]))
        >>> pass_curves(graded, ks=[1, 2]).table["value"].tolist()
        [0.625, 0.75]
    """
    checkpoints, notes = [first], []
    if second is not None:
        shared = [prompt for prompt in first.prompts if prompt in set(second.prompts)]
        if not shared:
            raise UsageError(
                f"file: expected prompts that both files have, got none in common, such as {first.prompts[0][:60]!r} "
                f"and {second.prompts[0][:60]!r}; choose the same column for both with --columns prompt=NAME"
            )
        left_out = len(first.prompts) + len(second.prompts) - 2 * len(shared)
        notes += [f"{left_out} prompts are in one file only and left out."] if left_out else []
        if second.name == first.name:
            second = replace(second, name=f"{second.name} (2)")
        checkpoints = [first.select(shared), second.select(shared)]
    notes += [note for checkpoint in checkpoints for note in checkpoint.notes]
    fewest = min(int(checkpoint.n.min()) for checkpoint in checkpoints)
    most = max(int(checkpoint.n.max()) for checkpoint in checkpoints)
    if fewest < most:
        notes.append(
            f"Prompts have {fewest} to {most} samples; k goes to {fewest}, because no unbiased estimate exists beyond "
            "the samples of a prompt."
        )
    chosen = _every_k(fewest) if ks is None else sorted(set(ks))
    if not chosen or chosen[0] < 1 or chosen[-1] > fewest:
        raise UsageError(f"k: expected whole numbers from 1 to {fewest}, the fewest samples of a prompt, got {ks}")
    values = [_values(checkpoint, chosen) for checkpoint in checkpoints]
    names = tuple(checkpoint.name for checkpoint in checkpoints)
    tables = [
        _frame(name, chosen, [interval(column, method="success") for column in by_k.T])
        for name, by_k in zip(names, values, strict=True)
    ]
    difference = tables[0].iloc[:0]
    crossings: tuple[CurveCrossing, ...] = ()
    if second is not None:
        paired = values[1] - values[0]
        means = [smooth(float(x.mean()), [Spread.of(x, 1.0)], Kind.PROMPT_DIFFERENCE) for x in paired.T]
        difference = _frame(f"{names[1]} − {names[0]}", chosen, means)
        crossings = tuple(_crossings(difference, names))
    return PassCurves(
        names, len(checkpoints[0].prompts), pd.concat(tables, ignore_index=True), difference, crossings, tuple(notes)
    )


def _every_k(most: int) -> list[int]:
    """1 to `most`; beyond `_DENSE` 64 an octave, so that thousands of samples do not take minutes."""
    if most <= _DENSE:
        return list(range(1, most + 1))
    steps = np.geomspace(_DENSE, most, 1 + round(_PER_OCTAVE * np.log2(most / _DENSE)))
    return sorted({*range(1, _DENSE), *np.rint(steps).astype(int).tolist(), most})


def _values(graded: Graded, ks: Sequence[int]) -> np.ndarray:
    """Pass@k of each prompt (prompts, k); equal counts are computed once."""
    pairs, place = np.unique(np.stack([graded.n, graded.c], 1), axis=0, return_inverse=True)
    distinct: np.ndarray = pass_at_k(pairs[:, :1], pairs[:, 1:], np.array(ks)[None])
    return distinct[place.reshape(-1)]


def _frame(label: str, ks: Sequence[int], means: Sequence[Interval]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": label,
            "k": list(ks),
            "value": [mean.estimate for mean in means],
            "low": [mean.low for mean in means],
            "high": [mean.high for mean in means],
            "kind": [str(mean.kind) for mean in means],
            "reason": [mean.reason for mean in means],
        }
    )


def _crossings(difference: pd.DataFrame, names: tuple[str, ...]) -> list[CurveCrossing]:
    k, value = difference["k"].to_numpy(float), difference["value"].to_numpy()
    ends = [difference[name].to_numpy(float) for name in ("low", "high")]
    reasons = dict.fromkeys(reason for reason in difference["reason"] if reason)
    reason = "" if all(np.isfinite(end).all() for end in ends) else "; ".join(reasons)
    zeros = [] if reason else sorted(zero for end in ends for zero in _zeros(k, end))
    crossings = []
    for i, j in pairwise(np.flatnonzero(value != 0)):
        if value[i] * value[j] > 0:
            continue
        at = float(k[i] + (k[j] - k[i]) * value[i] / (value[i] - value[j]))
        low = max((zero for zero in zeros if zero <= at), default=None)
        high = min((zero for zero in zeros if zero >= at), default=None)
        crossings.append(CurveCrossing(at, low, high, names[int(value[j] > 0)], reason))
    return crossings


def _zeros(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Where the polygon through (x, y) passes 0."""
    return [
        float(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])) for i in np.flatnonzero((y[:-1] > 0) != (y[1:] > 0))
    ]


def _crossing_words(crossing: CurveCrossing, names: tuple[str, ...]) -> str:
    other = names[1 - names.index(crossing.above)]
    if crossing.reason:
        ends = f"no interval: {crossing.reason}"
    elif crossing.low is None and crossing.high is None:
        ends = "the interval excludes no k"
    else:
        low = "1 or less" if crossing.low is None else f"{crossing.low:.3g}"
        high = "beyond" if crossing.high is None else f"{crossing.high:.3g}"
        ends = f"95% interval {low} to {high}"
    return f"The curves cross at k = {crossing.at:.3g} ({ends}): {other} is higher before, {crossing.above} after."


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
