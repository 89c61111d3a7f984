"""math-verify (huggingface/Math-Verify): is the answer in a response mathematically equal to the reference answer?

What is compared: of a response with a `\\boxed{…}` the content of the last one, else the whole response; and the
reference answer, taken as LaTeX. Equal text, white space apart, is equal; the rest is for math-verify. Two repairs are
made to a reference answer, since data sets hold such ones: it is wrapped in `\\boxed{}` where it is bare (math-verify
reads LaTeX only in an environment), and in a matrix a row separator that lost one of its backslashes gets it back.

math-verify's own time limit is an alarm signal, which works in the main thread of a process only and is lost where the
code that it interrupts catches it. Here comparisons are made in processes of their own, with that limit off, each
limited in processor time, and in wall-clock time as a last resort. An answer that takes longer is wrong ("timeout").
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
# A machine that is busy with other things stretches wall-clock time, not processor time: leave it room.
_WALL = 12
_PACKAGES = ("math-verify", "latex2sympy2_extended", "antlr4-python3-runtime", "sympy")
_MATRIX = re.compile(r"(\\begin\{[a-z]*(?:matrix|array|cases)\}.*?\\end\{[a-z]*(?:matrix|array|cases)\})", re.DOTALL)
_LOST_BACKSLASH = re.compile(r"(?<!\\)\\(?=[-\d])")  # before a digit or a minus no single backslash means anything


class MathVerify:
    """The verifier "math": `workers` processes, `seconds` of processor time a comparison.

    Raises ValueError where math-verify is not installed.
    """

    def __init__(self, *, workers: int = 1, seconds: int = SECONDS) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError("verifier: \"math\" needs the package math-verify; pip install 'rlvr-dynamics[math]'")
        self._pool = WorkerPool(f"{__package__}.math_verify_worker", [str(seconds)], workers, seconds * _WALL)
        self._seconds = seconds

    @property
    def identity(self) -> dict[str, Any]:
        """Its name, time limit, and the versions of math-verify and of what parses for it: verdicts depend on all."""
        return {"name": "math", "seconds": self._seconds, "versions": {name: _version(name) for name in _PACKAGES}}

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Reasons: correct, wrong answer, no answer found, reference not understood, timeout, crashed (…)."""
        verdicts: dict[tuple[str, str], Verdict] = {}
        asked: list[tuple[str, str]] = []
        pairs = [(repaired(case.answer), _extracted(case.response)) for case in cases]
        for pair in dict.fromkeys(pairs):
            if "".join(pair[0].split()) == "".join(pair[1].split()):
                verdicts[pair] = Verdict(True, "correct")
            else:
                asked.append(pair)
        for pair, found in zip(asked, self._pool.ask(asked), strict=True):
            reason = found.reason if isinstance(found, Failure) else str(found)
            verdicts[pair] = Verdict(reason == "correct", reason)
        return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """End its processes; they are started again when needed."""
        self._pool.close()


def last_boxed(text: str) -> str | None:
    r"""What the last complete \boxed{…} of a text holds; None where there is none.

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
    r"""A reference answer in \boxed{}, the row separators of its matrices whole.

    >>> repaired("5"), repaired("$5$")
    ('\\boxed{5}', '\\boxed{5}')
    >>> repaired(r"\begin{pmatrix}1\-2\end{pmatrix}")
    '\\boxed{\\begin{pmatrix}1\\\\-2\\end{pmatrix}}'
    """
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
    inner = _MATRIX.sub(lambda match: _LOST_BACKSLASH.sub(r"\\\\", match[0]), inner)
    return rf"\boxed{{{inner}}}"


def _extracted(response: str) -> str:
    inner = last_boxed(response)
    return response if inner is None else rf"\boxed{{{inner}}}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
