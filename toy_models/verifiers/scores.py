"""Scores as verdicts: what a function may return of a response, and the threshold that makes it correct or wrong."""

from __future__ import annotations

import contextlib
import math
from numbers import Real
from typing import Any

from .verifier import Verdict

__all__ = ["THRESHOLD", "is_truth_value", "scored_verdict"]

THRESHOLD = 1.0  # the least score that is correct, unless another is set
_SHOWN = 80  # characters of a value in a message


def scored_verdict(value: Any, threshold: float = THRESHOLD) -> Verdict:
    """A score as a verdict: correct where it is at least the threshold.

    Args:
        value: True or False, a finite number, or a `Verdict`. A verdict with a score is held against the threshold; one
            without stays as it is.
        threshold: The least score that is correct.

    Returns:
        The verdict; its `score` is None for True and False.

    Raises:
        ValueError: The value is something else, NaN or infinite.

    >>> scored_verdict(0.5, 1.0)
    Verdict(correct=False, reason='score 0.5', score=0.5)
    >>> scored_verdict(True, 1.0)
    Verdict(correct=True, reason='correct', score=None)
    """
    if isinstance(value, Verdict):
        if value.score is None:
            return value
        score = _finite(value.score)
        correct = score >= threshold
        same = correct == value.correct  # a reason that was written for another threshold is none
        return Verdict(correct, value.reason if same else _reason(score, correct), score)
    if is_truth_value(value):
        return Verdict(bool(value), "correct" if value else "wrong")
    score = _finite(value)
    return Verdict(score >= threshold, _reason(score, score >= threshold), score)


def is_truth_value(value: Any) -> bool:
    """Whether a value is True or False, Python's or numpy's, without loading numpy to ask."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def _finite(value: Any) -> float:
    number = value
    if hasattr(value, "item"):  # a number of numpy or torch
        with contextlib.suppress(ValueError, RuntimeError, TypeError):
            number = value.item()
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ValueError(f"expected a score: True, False, a number or a Verdict, got {repr(value)[:_SHOWN]}")
    if not math.isfinite(number):
        raise ValueError(f"expected a finite score, got {float(number)}; return 0 for a response without a score")
    return float(number)


def _reason(score: float, correct: bool) -> str:
    return "correct" if correct else f"score {score:.4g}"
