"""The built-in verifiers by name: exact match, math-verify, and functions of the user.

"exact"                the response, white space around it apart, is the answer
"math"                 math-verify finds them equal (`math_verify_pool`)
"my_rewards.py:score"  the function `score` of that file: score(prompt, response, answer) -> bool or Verdict
"package.module:score" the same of an importable module
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import user_functions as functions
from ..user_functions import load_function
from .verifier import Case, Verdict, Verifier, VerifierError

__all__ = ["VERIFIERS", "ExactMatch", "FunctionVerifier", "get_verifier", "source_file"]

VERIFIERS = ("exact", "math")
_SHOWN = 200  # characters of a prompt or response in a message


class ExactMatch:
    """Correct where the response ended by itself and equals the answer, white space around both apart.

    >>> [v.reason for v in ExactMatch().judge([Case("2+3=", " 5\\n", "5"), Case("2+3=", "5.", "5")])]
    ['correct', 'wrong answer']
    """

    identity = {"name": "exact"}  # noqa: RUF012

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Verdict:
        if not case.finished:
            return Verdict(False, "not finished: no end token")
        same = case.response.strip() == case.answer.strip()
        return Verdict(same, "correct" if same else "wrong answer")


class FunctionVerifier:
    """A function of the user's own, "file.py:name" or "package.module:name".

    It is called with the prompt, the response and the answer, and returns whether the response is correct, or a
    `Verdict`. Raises ValueError where there is no such file, module or function.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        path = source_file(target)
        self._function = load_function(target, "verifier", VERIFIERS)
        self.identity: dict[str, Any] = {"name": target, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionVerifier, (self.target,)  # its module has no name that another process could import

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Raises VerifierError where the function raises, or returns neither a truth value nor a Verdict."""
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Verdict:
        try:
            found = self._function(case.prompt, case.response, case.answer)
        except Exception as error:
            raise VerifierError(
                f"verifier {self.target} failed with {type(error).__name__}: {error}; {_described(case)}"
            ) from error
        if isinstance(found, Verdict):
            return found
        # numpy's truth values as well, without loading numpy to ask
        if isinstance(found, bool) or type(found).__name__ in ("bool", "bool_"):
            return Verdict(bool(found), "correct" if found else "wrong")
        raise VerifierError(
            f"verifier {self.target}: expected True, False or a Verdict, got {found!r}; {_described(case)}"
        )


def get_verifier(name: str, *, workers: int = 1) -> Verifier:
    """The verifier of that name (see the module); `workers` is the number of processes of "math".

    Raises ValueError for an unknown name, a function that is not there, and for "math" without math-verify.
    """
    if name == "exact":
        return ExactMatch()
    if name == "math":
        from .math_verify_pool import MathVerify

        return MathVerify(workers=workers)
    return FunctionVerifier(name)


def source_file(target: str) -> Path:
    """The file that holds a verifier "file.py:name" or "package.module:name"; ValueError where there is none."""
    return functions.source_file(target, "verifier", VERIFIERS)


def _described(case: Case) -> str:
    prompt, response = (text if len(text) <= _SHOWN else text[:_SHOWN] + " …" for text in (case.prompt, case.response))
    return f"prompt {prompt!r}, response {response!r}, answer {case.answer!r}"
