"""What a verifier is: it judges cases, each a prompt, a response and the expected answer, all as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

__all__ = ["NOT_JUDGED", "VERIFIERS", "Case", "Verdict", "Verifier", "VerifierError"]

NOT_JUDGED = "not judged: "  # begins the reason of a verdict where the verifier failed and errors count as 0
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
        given: The prompt as it was given, a text or chat messages; None for a text that is `prompt`.
        reference: The reference answer as it was given; None for a text that is `answer`.
        columns: Other columns of the row, for functions that ask for them by name.
        token_ids: The tokens of the response, where they are known.
    """

    prompt: str
    response: str
    answer: str
    finished: bool = True
    given: str | Sequence[Mapping[str, Any]] | None = None
    reference: Any = None
    columns: Mapping[str, Any] = MappingProxyType({})
    token_ids: Sequence[int] = ()


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
