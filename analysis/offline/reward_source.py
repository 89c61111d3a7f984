"""Rewards of recorded rollouts: those of the file, or the verdicts of a verifier on their texts."""

from __future__ import annotations

from collections.abc import Sequence

from toy_models.verifiers import Case, Verifier, VerifierError, get_verifier, judge_accepted

from ..errors import UsageError
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["judged_of", "verifier_of"]

Judged = tuple[float | None, bool | None, str | None]


def verifier_of(name: str | None, workers: int) -> Verifier | None:
    """The verifier of that name, None without one; UsageError where there is none such."""
    if name is None:
        return None
    try:
        return get_verifier(name, workers=workers)
    except ValueError as error:
        raise UsageError(str(error)) from error


def judged_of(window: Sequence[Encoded], judge: Verifier | None, settings: TraceSettings) -> list[Judged]:
    """(reward, correct, reason) of each rollout, None for what is not known; UsageError where a verifier fails."""
    if judge is None:
        return [_from_file(item.rollout.reward, settings.threshold) for item in window]
    cases = []
    for item in window:
        assert item.rollout.answer is not None
        cases.append(Case(item.question, item.judged_text, item.rollout.answer, item.finished is not False))
    try:
        return [(float(v.correct), v.correct, v.reason) for v in judge_accepted(judge, cases)]
    except VerifierError as error:
        where = "" if error.index is None else f"{window[error.index].rollout.where}: "
        raise UsageError(f"{where}{error}") from error


def _from_file(reward: float | None, threshold: float | None) -> Judged:
    if reward is None:
        return None, None, None
    if threshold is not None:
        return float(reward > threshold), reward > threshold, f"reward {reward:g} in the file"
    return reward, bool(reward) if reward in (0.0, 1.0) else None, None
