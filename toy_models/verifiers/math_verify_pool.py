"""math-verify (huggingface/Math-Verify): is the answer in a response mathematically equal to the reference answer?

What is compared with the reference answer, read as LaTeX, is the content of the last `\\boxed{…}` of the response, or
the whole response if it has none. Texts that are equal apart from white space are equal; math-verify judges the rest.
Small numbers are compared by their digits (`small_numbers`). Two defects of reference answers in data sets are
repaired: a bare answer is wrapped in `\\boxed{}` (math-verify reads LaTeX only in an environment), and a row separator
of a matrix that lost one of its backslashes gets it back. `docs/how_to/write_a_verifier.md` has a table of where this
differs from math-verify alone; a test compares the two on some hundred pairs.

The time limit of math-verify is an alarm signal, which works only in the main thread of a process and is lost where the
interrupted code catches it. Here that limit is off, and comparisons run in child processes that are limited in
processor time, and in wall-clock time as a last resort. An answer that takes longer is wrong ("timeout").
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from .verifier import Case, Verdict
from .worker_pool import Failure, WorkerPool

__all__ = ["MathVerify", "last_boxed", "repaired"]

SECONDS = 5
# Other load on the machine stretches wall-clock time, not processor time.
_WALL = 12  # wall-clock limit over the limit of processor time
_PACKAGES = ("math-verify", "latex2sympy2_extended", "antlr4-python3-runtime", "sympy")
_MATRIX = re.compile(r"(\\begin\{[a-z]*(?:matrix|array|cases)\}.*?\\end\{[a-z]*(?:matrix|array|cases)\})", re.DOTALL)
_SPACE = re.compile(r"\s+")
_LOST_BACKSLASH = re.compile(r"(?<!\\)\\(?=[-\d])")  # before a digit or a minus no single backslash means anything


class MathVerify:
    """The verifier "math".

    Args:
        workers: Number of processes.
        seconds: Processor time that one comparison may take.

    Raises:
        ValueError: math-verify is not installed.
    """

    def __init__(self, *, workers: int = 1, seconds: int = SECONDS) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError(
                'verifier: expected the package math-verify for "math", got none; in a checkout: '
                "pip install -e '.[math]'"
            )
        self._pool = WorkerPool(f"{__package__}.math_verify_worker", [str(seconds)], workers, seconds * _WALL)
        self._seconds = seconds

    @property
    def identity(self) -> dict[str, Any]:
        """Its name, its time limit, and the versions of math-verify and its parsers: verdicts depend on them all."""
        return {"name": "math", "seconds": self._seconds, "versions": {name: _version(name) for name in _PACKAGES}}

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Reasons: correct, wrong answer, no answer found, reference not understood, timeout, crashed (…)."""
        verdicts: dict[tuple[str, str, str], Verdict] = {}
        unequal: list[tuple[str, str, str]] = []
        keys = [(repaired(case.answer), _extracted(case.response), _boxed(case.answer)) for case in cases]
        for key in dict.fromkeys(keys):
            reference, response, as_written = key
            if _text(response) in (_text(reference), _text(as_written)):
                verdicts[key] = Verdict(True, "correct")
            else:
                unequal.append(key)
        for key, answer in zip(unequal, self._pool.ask([key[:2] for key in unequal]), strict=True):
            reason = answer.reason if isinstance(answer, Failure) else str(answer)
            verdicts[key] = Verdict(reason == "correct", reason)
        return [verdicts[key] for key in keys]

    def close(self) -> None:
        """End its processes; they are started again when needed."""
        self._pool.close()


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{…} of a text; None where there is none.

    >>> last_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    end = len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        depth = 0
        for i in range(start + len(r"\boxed"), len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[start + len(r"\boxed{") : i]
        end = start
    return None


def repaired(answer: str) -> str:
    r"""A reference answer in \boxed{}, with the row separators of its matrices repaired.

    >>> repaired("5"), repaired("$5$")
    ('\\boxed{5}', '\\boxed{5}')
    >>> repaired(r"\begin{pmatrix}1\-2\end{pmatrix}")
    '\\boxed{\\begin{pmatrix}1\\\\-2\\end{pmatrix}}'
    """
    return _MATRIX.sub(lambda match: _LOST_BACKSLASH.sub(r"\\\\", match[0]), _boxed(answer))


def _boxed(answer: str) -> str:
    inner = last_boxed(answer)
    if inner is None:
        inner = answer.strip()
        for mark in ("$$", "$"):
            if (
                len(inner) > 2 * len(mark)
                and inner.startswith(mark)
                and inner.endswith(mark)
                and mark not in (inner[len(mark) : -len(mark)])
            ):
                inner = inner[len(mark) : -len(mark)]
    return rf"\boxed{{{inner}}}"


def _text(text: str) -> str:
    """Without white space, but for that between two digits, where it makes two numbers of one."""
    text = text.strip()
    return _SPACE.sub(lambda gap: " " * (text[gap.start() - 1].isdigit() and text[gap.end()].isdigit()), text)


def _extracted(response: str) -> str:
    inner = last_boxed(response)
    return response if inner is None else rf"\boxed{{{inner}}}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
