"""Comparisons of two methods as sentences: for the end of a summary and for the titles of figures."""

from __future__ import annotations

import math

from ..common.tables import Cell
from .comparison import EFFECTIVE, ENTROPY, PASS_AT_1, Comparison, Matching

__all__ = ["gap", "short_gap", "verdict"]


def gap(first: str, second: str, cell: Cell, what: str = "entropy", unit: str = "nats ") -> str:
    """The difference first − second in words, with its interval.

    >>> gap("NSR", "PSR", Cell(0.0961, 0.0853, 0.107))
    'NSR has 0.096 nats more entropy than PSR (95% interval 0.085 to 0.107)'
    >>> gap("NSR", "PSR", Cell(0.004, -0.013, 0.021))
    'NSR and PSR cannot be told apart in entropy (NSR − PSR: −0.013 to 0.021 nats)'
    """
    if _undecided(cell):
        return f"{first} and {second} {_alike(cell, what)} ({_signed(first, second, cell, unit)})"
    more = "more" if cell.value > 0 else "less"
    return f"{first} has {abs(cell.value):.3f} {unit}{more} {what} than {second}{_interval(cell)}"


def short_gap(first: str, second: str, cell: Cell, what: str = "entropy", unit: str = "nats ") -> str:
    """The same for a title, without the interval, and without `what` where the axis says it.

    >>> short_gap("NSR", "PSR", Cell(-0.0312, -0.04, -0.02))
    'NSR has 0.03 nats less entropy than PSR'
    """
    if _undecided(cell):
        return f"{first} and {second} {_alike(cell, what)}"
    more = "more" if cell.value > 0 else "less"
    digits = 2 if abs(cell.value) >= 0.015 else 3
    return " ".join(f"{first} has {abs(cell.value):.{digits}f} {unit}{more} {what} than {second}".split())


def verdict(comparison: Comparison, at_steps: Matching, at_level: Matching | None) -> list[str]:
    """What the tables say about entropy, in one or two sentences.

    Args:
        comparison: what was compared.
        at_steps: matched at the last common step.
        at_level: matched at levels of Pass@1; None where there is no common level. The highest level counts.
    """
    entropy = comparison.metric(ENTROPY)
    if entropy is None:
        return []
    step = at_steps.levels[-1]
    sentences = []
    for first, second in comparison.pairs:
        cell = comparison.difference(at_steps, step, (first, second), entropy)
        if not math.isfinite(cell.value):
            continue
        sentence = f"At step {step:.0f} {gap(first, second, cell)}"
        if at_level is not None:
            sentence += _at_level(comparison, at_level, (first, second))
        sentences.append(f"{sentence}.")
    if not comparison.pairs:
        sentences += _alone(comparison, at_steps)
    if sentences and comparison.pairs:
        seeds = comparison.seeds
        sentences.append(
            "One seed: the intervals are over prompts and say nothing about other seeds."
            if seeds == 1
            else f"The intervals are over {seeds} seeds."
        )
    return [" ".join(sentences)] if sentences else []


def _at_level(comparison: Comparison, at_level: Matching, pair: tuple[str, str]) -> str:
    level, entropy = at_level.levels[-1], comparison.metric(ENTROPY)
    assert entropy is not None
    cell = comparison.difference(at_level, level, pair, entropy)
    if not math.isfinite(cell.value):
        return f"; they do not both reach Pass@1 = {level:.3f}"
    if _undecided(cell):
        text = f"; at Pass@1 = {level:.3f} they {_alike(cell, 'entropy')} ({_signed(*pair, cell, 'nats ')})"
    else:
        more = "more" if cell.value > 0 else "less"
        text = f"; at Pass@1 = {level:.3f} it has {abs(cell.value):.3f} nats {more}{_interval(cell)}"
    effective = comparison.metric(EFFECTIVE)
    if effective is not None:
        first, second = (comparison.value(at_level, level, label, effective).value for label in pair)
        text += f", and {first:.1f} against {second:.1f} effective solutions"
    return text


def _alone(comparison: Comparison, at_steps: Matching) -> list[str]:
    """One method against its own start."""
    (label,) = comparison.members
    start, end = comparison.match("step", [0.0]), at_steps.levels[-1]
    pass_at_1, entropy = comparison.metric(PASS_AT_1), comparison.metric(ENTROPY)
    if pass_at_1 is None or entropy is None:
        return []
    p, h = (
        [comparison.value(matching, level, label, column).value for matching, level in ((start, 0.0), (at_steps, end))]
        for column in (pass_at_1, entropy)
    )
    return [
        f"From step 0 to step {end:.0f} {label} takes Pass@1 from {p[0]:.3f} to {p[1]:.3f} and entropy from "
        f"{h[0]:.3f} to {h[1]:.3f} nats."
    ]


def _undecided(cell: Cell) -> bool:
    """Whether the interval holds zero; without an interval, whether the value is zero to three decimals."""
    if math.isfinite(cell.low):
        return cell.low <= 0 <= cell.high
    return round(cell.value, 3) == 0


def _alike(cell: Cell, what: str) -> str:
    """What an undecided difference says: an interval that holds zero does not show that two are the same."""
    if math.isfinite(cell.low):
        return f"cannot be told apart{f' in {what}' if what else ''}"
    return f"have the same {what or 'entropy'}"


def _interval(cell: Cell) -> str:
    """The interval of a size, both ends without their common sign."""
    if not math.isfinite(cell.low):
        return ""
    low, high = sorted((abs(cell.low), abs(cell.high)))
    return f" (95% interval {low:.3f} to {high:.3f})"


def _signed(first: str, second: str, cell: Cell, unit: str) -> str:
    low, high = (f"{end:.3f}".replace("-", "−") for end in (cell.low, cell.high))
    ends = f"{low} to {high} " if math.isfinite(cell.low) else f"{cell.value:.3f} "
    return f"{first} − {second}: {ends}{unit}".strip()
