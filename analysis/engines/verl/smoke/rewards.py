r"""The reward of the smoke run: 1 where math-verify finds the answer of the response equal to the reference, else 0.

verl calls a reward function in a thread of a worker process. math-verify limits its time by an alarm signal, which
only the main thread of a process can set, so comparisons run in child processes with a time limit of their own.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

__all__ = ["compute_score"]

_lock = threading.Lock()  # the pool answers one caller at a time


@functools.cache
def _verifier() -> Any:
    from toy_models.verifiers.math_verify_pool import MathVerify

    return MathVerify(workers=1)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> float:
    r"""Judge one response, as verl's `reward.custom_reward_function` is called.

    Args:
        data_source: The task; one is known.
        solution_str: The response.
        ground_truth: The reference answer.
        extra_info: Not used.

    Returns:
        1.0 or 0.0.

    Example:
        >>> compute_score("sums", r"7 so \boxed{ 7 }", "7")
        1.0
    """
    from toy_models.verifiers.verifier import Case

    with _lock:
        (verdict,) = _verifier().judge([Case("", solution_str, ground_truth)])
    return float(verdict.correct)
