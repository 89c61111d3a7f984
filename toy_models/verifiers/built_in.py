"""The built-in verifiers by name: exact match, math-verify, and functions from a file or module.

"exact"                 the response equals the answer, white space around both apart
"math"                  math-verify finds the two equal (`math_verify_pool`)
"my_rewards.py:score"   the function `score` of that file, score(prompt, response, answer) -> bool, number or Verdict,
                        or a reward function of TRL, verl or verifiers (`function_verifier`)
"package.module:score"  the same from an importable module
"""

from __future__ import annotations

from collections.abc import Sequence

from .function_verifier import FunctionVerifier, source_file
from .verifier import VERIFIERS, Case, Verdict, Verifier

__all__ = ["VERIFIERS", "ExactMatch", "FunctionVerifier", "get_verifier", "source_file"]


class ExactMatch:
    r"""Correct where the response ended by itself and equals the answer, white space around both apart.

    >>> [verdict.reason for verdict in ExactMatch().judge([Case("2+3=", " 5\n", "5"), Case("2+3=", "5.", "5")])]
    ['correct', 'wrong answer']
    """

    identity = {"name": "exact"}  # noqa: RUF012

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Reasons: correct, wrong answer, not finished: no end token."""
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Verdict:
        if not case.finished:
            return Verdict(False, "not finished: no end token")
        same = case.response.strip() == case.answer.strip()
        return Verdict(same, "correct" if same else "wrong answer")


def get_verifier(name: str, *, workers: int = 1, seconds: int | None = None, errors: str = "stop") -> Verifier:
    """A verifier by its name.

    Args:
        name: "exact", "math", "file.py:function" or "package.module:function".
        workers: Number of processes for "math".
        seconds: Of a function: processor time of one call; see `FunctionVerifier`.
        errors: Of a function: "stop" or "zero"; see `FunctionVerifier`.

    Raises:
        ValueError: The name is unknown, the function does not exist, or math-verify is not installed.
    """
    if name == "exact":
        return ExactMatch()
    if name == "math":
        from .math_verify_pool import MathVerify

        return MathVerify(workers=workers)
    return FunctionVerifier(name, seconds=seconds, errors=errors)
