"""The built-in verifiers by name: exact match, math-verify, and functions from a file or module.

"exact"                 the response equals the answer, white space around both apart
"math"                  math-verify finds the two equal (`math_verify_pool`)
"my_rewards.py:score"   the function `score` of that file, score(prompt, response, answer) -> bool or Verdict
"package.module:score"  the same from an importable module
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import user_functions
from .verifier import Case, Verdict, Verifier, VerifierError

__all__ = ["VERIFIERS", "ExactMatch", "FunctionVerifier", "get_verifier", "source_file"]

VERIFIERS = ("exact", "math")  # names of the built-in verifiers
_SHOWN = 200  # characters of a prompt or response in a message


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


class FunctionVerifier:
    """A Python function as a verifier, called as `function(prompt, response, answer)`.

    It returns whether the response is correct, or a `Verdict` with a reason.

    Args:
        target: The function as "file.py:name" or "package.module:name".

    Raises:
        ValueError: The file, module or function does not exist, or it cannot be imported.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        path = source_file(target)
        self._function = user_functions.load_function(target, "verifier", VERIFIERS)
        self.identity: dict[str, Any] = {"name": target, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionVerifier, (self.target,)  # its module has no name that another process could import

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict for each case.

        Raises:
            VerifierError: The function raises, or returns something other than True, False or a `Verdict`.
        """
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Verdict:
        try:
            value = self._function(case.prompt, case.response, case.answer)
        except Exception as error:
            raise VerifierError(
                f"verifier {self.target} failed with {type(error).__name__}: {error}; {_described(case)}"
            ) from error
        if isinstance(value, Verdict):
            return value
        # also the truth values of numpy, without loading numpy to ask
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            return Verdict(bool(value), "correct" if value else "wrong")
        raise VerifierError(
            f"verifier {self.target}: expected True, False or a Verdict, got {value!r}; {_described(case)}"
        )


def get_verifier(name: str, *, workers: int = 1) -> Verifier:
    """A verifier by its name.

    Args:
        name: "exact", "math", "file.py:function" or "package.module:function".
        workers: Number of processes for "math".

    Raises:
        ValueError: The name is unknown, the function does not exist, or math-verify is not installed.
    """
    if name == "exact":
        return ExactMatch()
    if name == "math":
        from .math_verify_pool import MathVerify

        return MathVerify(workers=workers)
    return FunctionVerifier(name)


def source_file(target: str) -> Path:
    """The file that holds the function of a verifier.

    Args:
        target: The function as "file.py:name" or "package.module:name".

    Raises:
        ValueError: The target has another form, or its file or module does not exist.
    """
    return user_functions.source_file(target, "verifier", VERIFIERS)


def _described(case: Case) -> str:
    prompt, response = (text if len(text) <= _SHOWN else text[:_SHOWN] + " …" for text in (case.prompt, case.response))
    return f"prompt {prompt!r}, response {response!r}, answer {case.answer!r}"
