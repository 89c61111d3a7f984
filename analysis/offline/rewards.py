"""Rewards of a file: which column or which sum of columns, and above what a reward counts as rewarded.

An expression is a sum of columns with weights, such as "2*accuracy + format", or a number for all responses, "1". The
scheme that the rewards follow (0 and 1, ±1, −1 and 0, graded, shaped) decides what tables call rewarded: the greater of
two values; with more values what lies above 0 where there are negative and positive ones, above 0.5 between 0 and 1,
and above the middle of the range otherwise. Another bound is an option; it moves labels, no reward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import UsageError

__all__ = ["RewardScheme", "RewardSum", "parse_sum", "scheme_of"]

_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?")
_MANY = 8  # distinct values that are still listed


@dataclass(frozen=True)
class RewardSum:
    """Σ weight·column + constant.

    Attributes:
        text: As it was written.
        weights: Column -> weight.
        constant: What is added.
    """

    text: str
    weights: Mapping[str, float]
    constant: float = 0.0


def parse_sum(text: str, columns: Sequence[str]) -> RewardSum | None:
    """The sum that a text describes; None where it is the name of a column or is not a sum.

    >>> parse_sum("2*correct + format - 0.5", ["correct", "format"])
    RewardSum(text='2*correct + format - 0.5', weights={'correct': 2.0, 'format': 1.0}, constant=-0.5)
    """
    if text in columns:
        return None
    weights: dict[str, float] = {}
    constant, sign = 0.0, 1.0
    factor: float | None = None  # of the term that is being read
    name: str | None = None
    parts = _parts(text, columns)
    if not _well_formed(parts):
        return None
    for part in [*parts, "+"]:
        if part in ("+", "-"):
            if name is not None:
                weights[name] = weights.get(name, 0.0) + sign * (1.0 if factor is None else factor)
            elif factor is not None:
                constant += sign * factor
            sign, factor, name = (1.0 if part == "+" else -1.0), None, None
        elif part != "*" and _NUMBER.fullmatch(part) and part not in columns:
            factor = float(part) * (1.0 if factor is None else factor)
        elif part != "*" and name is None:
            name = part
        elif part != "*":
            return None
    return RewardSum(text, weights, constant) if set(weights) != {text} else None


def _well_formed(parts: Sequence[str]) -> bool:
    """Whether signs stand between terms, a * between two of their factors, and one factor follows another by a *."""
    signs = [part in ("+", "-", "*") for part in parts]
    return bool(parts) and not signs[-1] and parts[0] not in ("+", "*") and all(a != b for a, b in pairwise(signs))


def _parts(text: str, columns: Sequence[str]) -> list[str]:
    """Names of columns (of which some have a sign in them), numbers and signs."""
    names = sorted(map(re.escape, columns), key=len, reverse=True)
    known = [rf"(?:{'|'.join(names)})(?=\s*(?:[+*-]|$))"] if names else []
    return re.findall("|".join([*known, _NUMBER.pattern, r"[+*-]", r"[^\s+*-]+"]), text)


@dataclass(frozen=True)
class RewardScheme:
    """What rewards a file has.

    Attributes:
        kind: "0 and 1", "-1 and 1", "-1 and 0", "one value", "two values", "graded" or "shaped".
        values: In words: the values, or their range.
        rewarded_above: A response counts as rewarded where its reward is above this.
    """

    kind: str
    values: str
    rewarded_above: float


def scheme_of(rewards: Sequence[float], rewarded_above: float | None = None) -> RewardScheme | None:
    """The scheme of some rewards; None without any.

    Args:
        rewards: Of every response.
        rewarded_above: A bound that the user chose.

    >>> scheme_of([-1.0, 0.0, 0.0])
    RewardScheme(kind='-1 and 0', values='-1 and 0', rewarded_above=-0.5)
    """
    if rewarded_above is not None and not math.isfinite(rewarded_above):
        raise UsageError(f"rewarded_above: expected a finite number, got {rewarded_above}")
    distinct = sorted(set(rewards))
    if not distinct:
        return None
    low, high = distinct[0], distinct[-1]
    if len(distinct) == 1:
        kind, bound = ("0 and 1", 0.5) if low in (0.0, 1.0) else ("one value", 0.0)
    elif len(distinct) == 2:
        pair = f"{low:g} and {high:g}"
        kind, bound = pair if pair in ("0 and 1", "-1 and 1", "-1 and 0") else "two values", (low + high) / 2
    elif low < 0 < high:
        kind, bound = "shaped", 0.0
    elif low >= 0 and high <= 1:
        kind, bound = "graded", 0.5
    else:
        kind, bound = "shaped", (low + high) / 2
    values = (" and " if len(distinct) == 2 else ", ").join(f"{value:g}" for value in distinct[:_MANY])
    if len(distinct) > _MANY:
        values = f"{len(distinct):,} values from {low:g} to {high:g}"
    return RewardScheme(kind, values, bound if rewarded_above is None else float(rewarded_above))
