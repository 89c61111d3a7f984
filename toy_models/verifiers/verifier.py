"""What a verifier is: it judges cases, each a prompt, a response and the expected answer, all as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["VERIFIERS", "Case", "Verdict", "Verifier", "VerifierError"]

VERIFIERS = ("exact", "math")  # names of the built-in verifiers


@dataclass(frozen=True)
class Verdict:
    """Whether a response is correct, and why not.

    Attributes:
        correct: Whether it is.
        reason: In words; "correct" where it is correct. Records keep it with the rollout.
        score: How good it is, of which `task.threshold` or more is correct; None where there is a verdict alone.
    """

    correct: bool
    reason: str
    score: float | None = None


class Case(NamedTuple):
    """One response to judge.

    Attributes:
        prompt: What was asked.
        response: What was answered, without special tokens.
        answer: The reference answer.
        finished: Whether the response ended by itself, rather than being cut off at the greatest length.
    """

    prompt: str
    response: str
    answer: str
    finished: bool = True


class VerifierError(RuntimeError):
    """A verifier that failed; the message names the prompt that it failed on.

    Attributes:
        index: Place of that case among those that it was given; None where no single case is at fault.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class Verifier(Protocol):
    """Judges many cases at once. The verdict on a case depends on that case only."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name and what its verdicts depend on (versions, digests), as plain data for run.json."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict for each case, in their order."""
