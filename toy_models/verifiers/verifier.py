"""What a verifier is, exact match, and functions of the user's own.

A verifier judges cases: what was asked, what was answered and what the answer should be, all as text.

    "exact"               the response, white space around it apart, is the answer
    "math"                math-verify finds them equal (`math_verify_pool`)
    "my_rewards.py:score" the function `score` of that file: score(prompt, response, answer) -> bool or Verdict
    "package.module:score" the same of an importable module
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..task import Verdict, unknown_name

__all__ = ["VERIFIERS", "Case", "ExactMatch", "FunctionVerifier", "Verifier", "VerifierError", "get_verifier",
           "source_file"]

VERIFIERS = ("exact", "math")
_SHOWN = 200  # characters of a prompt or response in a message


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
        self._function = _load(target, path)
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
            raise VerifierError(f"verifier {self.target} failed with {type(error).__name__}: {error}; "
                                f"{_described(case)}") from error
        if isinstance(found, Verdict):
            return found
        # numpy's truth values as well, without loading numpy to ask
        if isinstance(found, bool) or type(found).__name__ in ("bool", "bool_"):
            return Verdict(bool(found), "correct" if found else "wrong")
        raise VerifierError(f"verifier {self.target}: expected True, False or a Verdict, got {found!r}; "
                            f"{_described(case)}")


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
    """The file that holds a function "file.py:name" or "package.module:name"; the module is not imported.

    Raises ValueError where `target` has another form or nothing is found.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(f"{unknown_name('verifier', target, VERIFIERS)}; a function of your own is written "
                         "file.py:name or package.module:name")
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"verifier: expected a Python file, but there is no {path.absolute()}")
        return path
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(f"verifier: there is no module {where!r} to import; write file.py:{name}, or add its folder "
                         "to PYTHONPATH")
    return Path(spec.origin)


def _load(target: str, path: Path) -> Callable[[str, str, str], Any]:
    where, _, name = target.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"_verifier_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module.__name__] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except Exception as error:
        raise ValueError(f"verifier: {path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{unknown_name('verifier', name, known)} in {path}")
    return function


def _described(case: Case) -> str:
    prompt, response = (text if len(text) <= _SHOWN else text[:_SHOWN] + " …" for text in (case.prompt, case.response))
    return f"prompt {prompt!r}, response {response!r}, answer {case.answer!r}"
