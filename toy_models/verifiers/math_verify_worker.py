"""A child process of `MathVerify`: a pair [reference, response] in, the reason of the verdict out.

The kernel ends it (SIGXCPU) when one pair takes more than its limit of processor time, even in code that no Python
signal handler could interrupt.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import resource
import sys
from typing import Any

from ..child_process import Send

__all__ = ["main"]

_MEMORY_BYTES = 4 << 30  # a tower of powers must not use up the memory of the machine before its time is up


def main(send: Send, seconds: str) -> None:
    """Answer each pair on standard input until it ends, with `seconds` of processor time for each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not every system allows it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.disable(logging.CRITICAL)  # it warns that its own time limits are off
    from math_verify import grader, parse, verify

    from .small_numbers import same_value

    plainly_equal = grader.sympy_numeric_eq

    def equal(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
        return plainly_equal(a, b, float_rounding, numeric_precision) and same_value(a, b)

    grader.sympy_numeric_eq = equal  # where every comparison of numbers ends, also inside of sets, tuples and matrices

    @functools.lru_cache(4096)
    def reference(text: str) -> Any:
        return parse(text, parsing_timeout=None)

    def judge(gold: str, response: str) -> str:
        expected = reference(gold)
        if not expected:
            return "reference not understood"
        answer = parse(response, parsing_timeout=None)
        if not answer:
            return "no answer found"
        return "correct" if verify(expected, answer, timeout_seconds=None) else "wrong answer"

    judge(r"\boxed{1}", r"\boxed{2}")  # the first comparison imports much more
    send("ready")
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime) + int(seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            send(judge(*json.loads(line)))
        except (MemoryError, RecursionError) as error:
            send(f"failed ({type(error).__name__})")
