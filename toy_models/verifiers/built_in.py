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
from .verifier import VERIFIERS, Case, Verdict, Verifier, VerifierError
from .worker_pool import Failure, StartError, WorkerPool

__all__ = ["VERIFIERS", "ExactMatch", "FunctionVerifier", "get_verifier", "source_file"]

_SHOWN = 200  # characters of a prompt or response in a message
_WALL = 10  # wall-clock limit of a call over the limit of processor time
_START_SECONDS = 600.0  # a function may load a model when it is imported
_ALL_ENDED = 8  # so many first calls without a verdict are the function's fault, not that of the responses


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

    It returns whether the response is correct, or a `Verdict` with a reason. It runs in a child process of its own,
    which is started here, put back after each call (`function_worker`), and replaced where a call ends it. A response
    is wrong, with the reason in words, where the call exits, is ended by a signal, takes more than a minute of
    processor time (or ten of waiting), or runs out of memory or stack; a whole number `seconds` as an attribute of the
    function replaces the minute. What the call prints is kept out of the output of this process.

    Args:
        target: The function as "file.py:name" or "package.module:name".

    Raises:
        ValueError: The file, module or function does not exist, or it cannot be imported.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        path = source_file(target)
        self._pool = WorkerPool(f"{__package__}.function_worker", [target], 1, 0.0, start_seconds=_START_SECONDS)
        try:
            self._pool.seconds = self._pool.start()["seconds"] * _WALL
        except StartError as error:
            raise ValueError(str(error) if error.told else f"verifier: {path} cannot be imported: {error}") from None
        self.identity: dict[str, Any] = {"name": target, "sha256": _digest(path)}
        helpers = user_functions.helper_files(path)
        if helpers:
            folder = path.resolve().parent
            self.identity["helpers"] = {str(file.relative_to(folder)): _digest(file) for file in helpers}
        self._judged, self._ended = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionVerifier, (self.target,)  # the copy starts a process of its own

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict for each case.

        Raises:
            VerifierError: The function raises, or returns something other than True, False or a `Verdict`; or each of
                its first eight calls has ended its process, which is then a fault of its own.
        """
        return [self._judge(case, index) for index, case in enumerate(cases)]

    def close(self) -> None:
        """End its process; it is started again when needed."""
        self._pool.close()

    def _judge(self, case: Case, index: int) -> Verdict:
        try:
            (answer,) = self._pool.ask([[case.prompt, case.response, case.answer]])
        except StartError as error:
            raise VerifierError(f"verifier {self.target} cannot be started again: {error}", index) from error
        if isinstance(answer, Failure):
            answer = {"ended": answer.reason}
        if "error" in answer:
            raise VerifierError(f"verifier {self.target}{answer['error']}; {_described(case)}", index)
        self._judged += 1
        if "ended" not in answer:
            return Verdict(answer["correct"], answer["reason"])
        self._ended += 1
        if self._ended == self._judged == _ALL_ENDED:
            raise VerifierError(
                f"verifier {self.target}: expected a verdict, but each of its first {_ALL_ENDED} calls ended without "
                f"one, the last as {answer['ended']!r}; {_described(case)}",
                index,
            )
        return Verdict(False, answer["ended"])


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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _described(case: Case) -> str:
    prompt, response = (text if len(text) <= _SHOWN else text[:_SHOWN] + " …" for text in (case.prompt, case.response))
    return f"prompt {prompt!r}, response {response!r}, answer {case.answer!r}"
