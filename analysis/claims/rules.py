"""Decision rules: where an interval lies relative to a bound. Every entry decides by one of these.

A rule never asks whether a number is "significant" but whether the whole 95% interval lies on one side of a bound that
was fixed beforehand. An interval that contains the bound decides nothing: the verdict is undecided, with the number of
seeds that would have been enough if estimate and spread stayed as they are.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .comparisons import Comparison
from .decision import Decision, Effect, Verdict

__all__ = ["equivalent", "exceeds", "falls_below", "missing_power"]


def exceeds(effect: Effect, bound: float = 0.0, comparison: Comparison | None = None) -> Decision:
    """Holds where the whole interval is above `bound`, fails where it is below.

    Example:
        >>> exceeds(Effect("gap", 0.10, 0.04, 0.16), 0.02).verdict
        'holds'
    """
    if _unknown(effect):
        return _no_interval(effect)
    text = f"{shown(effect)} against a bound of {bound:g}"
    if effect.low > bound:
        return Decision("holds", f"{text}: above it.", (effect,))
    if effect.high < bound:
        return Decision("fails", f"{text}: below it.", (effect,))
    return Decision("undecided", f"{text}: on both sides.", (effect,), missing=missing_power(effect, bound, comparison))


def falls_below(effect: Effect, bound: float = 0.0, comparison: Comparison | None = None) -> Decision:
    """Holds where the whole interval is below `bound`, fails where it is above.

    Example:
        >>> falls_below(Effect("change", -0.10, -0.16, -0.04), -0.02).verdict
        'holds'
    """
    found = exceeds(effect, bound, comparison)
    other: dict[Verdict, Verdict] = {"holds": "fails", "fails": "holds"}
    return replace(found, verdict=other.get(found.verdict, found.verdict))


def equivalent(effect: Effect, margin: float, comparison: Comparison | None = None) -> Decision:
    """No difference beyond ±margin: holds where the 95% interval lies within it, fails where it lies outside.

    An interval of 95% within the margin is stricter than two one-sided tests at 5%, which ask for that of 90%. The p
    of these tests is told beside it where there is a comparison.

    Example:
        >>> equivalent(Effect("gap", 0.001, -0.004, 0.006), 0.01).verdict
        'holds'
    """
    if _unknown(effect):
        return _no_interval(effect)
    mean = None if comparison is None else comparison.mean
    tests = "" if mean is None else f" (two one-sided tests: p = {mean.equivalence_p(margin):.2g})"
    text = f"{shown(effect)} against a margin of ±{margin:g}{tests}"
    if -margin < effect.low and effect.high < margin:
        return Decision("holds", f"{text}: within it.", (effect,))
    if effect.low > margin or effect.high < -margin:
        return Decision("fails", f"{text}: outside of it.", (effect,))
    nearest = math.copysign(margin, effect.value)
    return Decision(
        "undecided", f"{text}: partly within it.", (effect,), missing=missing_power(effect, nearest, comparison)
    )


def missing_power(effect: Effect, bound: float, comparison: Comparison | None = None) -> str:
    """How many seeds would have decided between the effect and `bound`, were estimate and spread to stay."""
    mean = None if comparison is None else comparison.mean
    needed = None if mean is None else mean.seeds_for(bound)
    if needed is not None:
        return f"about {needed} seeds instead of {effect.n} would put {bound:g} outside the interval"
    half = (effect.high - effect.low) / 2
    distance = abs(effect.value - bound)
    if not math.isfinite(half) or distance == 0:
        return f"an interval that does not contain {bound:g}"
    return (
        f"an interval {half / distance:.1f} times narrower (about {(half / distance) ** 2:.0f} times the {effect.over})"
    )


def shown(effect: Effect) -> str:
    """The effect with its interval, for a sentence."""
    unit = f" {effect.unit}" if effect.unit else ""
    ends = f" ({effect.low:.3g} to {effect.high:.3g})" if math.isfinite(effect.low) else ""
    where = f" ({effect.condition})" if effect.condition else ""
    return f"{effect.label}{where} is {effect.value:.3g}{unit}{ends}"


def _unknown(effect: Effect) -> bool:
    return effect.kind != "exact" and not (math.isfinite(effect.low) and math.isfinite(effect.high))


def _no_interval(effect: Effect) -> Decision:
    why = effect.reason or "it has no interval"
    return Decision("undecided", f"{shown(effect)}, without an interval: {why}.", (effect,), missing=why)
