"""Rewards of recorded rollouts: those of the file, or the verdicts of a verifier on their texts."""

from __future__ import annotations

from collections.abc import Sequence

from toy_models.verifiers import VERIFIERS, Case, Verifier, VerifierError, get_verifier

from ..errors import UsageError
from .row_rollouts import answer_text
from .row_values import JsonObject, shown
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
    cases, counts = [], []
    for item in window:
        answers = _accepted(item.rollout.answer, settings.verifier)
        cases += [Case(item.question, item.judged_text, answer, item.finished is not False) for answer in answers]
        counts.append(len(answers))
    try:
        verdicts = iter(judge.judge(cases))
    except VerifierError as error:
        owners = [item.rollout.where for item, count in zip(window, counts, strict=True) for _ in range(count)]
        where = "" if error.index is None else f"{owners[error.index]}: "
        raise UsageError(f"{where}{error}") from error
    judged: list[Judged] = []
    for count in counts:
        each = [next(verdicts) for _ in range(count)]
        verdict = next((v for v in each if v.correct), each[0])
        judged.append((float(verdict.correct), verdict.correct, verdict.reason))
    return judged


def _accepted(answer: str | tuple[str, ...] | None, verifier: str | None) -> tuple[str, ...]:
    """The answers of which any is right. A function of the user's own is handed the whole list, as JSON."""
    assert answer is not None
    if isinstance(answer, JsonObject) and verifier in VERIFIERS:
        raise UsageError(
            f"answer: expected a text, a number or a list of accepted answers for the verifier {verifier}, got the "
            f"object {shown(answer)}; name the entry that holds the answer, such as --answers COLUMN.target"
        )
    if isinstance(answer, str):
        return (answer,)
    return answer if verifier in VERIFIERS else (answer_text(answer),)


def _from_file(reward: float | None, threshold: float | None) -> Judged:
    if reward is None:
        return None, None, None
    if threshold is not None:
        return float(reward > threshold), reward > threshold, f"reward {reward:g} in the file"
    return reward, bool(reward) if reward in (0.0, 1.0) else None, None
