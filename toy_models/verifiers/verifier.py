"""What a verifier is: it judges cases, which are a prompt, a response and the answer that is expected, all as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["Case", "Verdict", "Verifier", "VerifierError"]


@dataclass(frozen=True)
class Verdict:
    """Whether a response is correct, and why not in words (`reason` is "correct" where it is)."""

    correct: bool
    reason: str


class Case(NamedTuple):
    """One response to judge; `finished` says whether it ended by itself (and not at the longest length)."""

    prompt: str
    response: str
    answer: str
    finished: bool = True


class VerifierError(RuntimeError):
    """A verifier that failed; the message names the prompt that it failed on."""


class Verifier(Protocol):
    """Judges many cases at once; a verdict depends on its own case only."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name, and what its verdicts depend on (versions, digests), as plain data for run.json."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]: ...
