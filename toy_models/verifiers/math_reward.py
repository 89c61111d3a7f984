r"""math-verify as a reward function of verl: 1 where the response has the answer, else 0.

In a configuration of verl:

    reward.custom_reward_function.path=pkg://toy_models.verifiers.math_reward
    reward.custom_reward_function.name=compute_score

verl calls reward functions in threads, where the time limit of math-verify itself raises: it is an alarm signal.
`MathVerify` compares in child processes with a limit of processor time. A process that calls the reward function (verl
has `reward.num_workers` of them) keeps two such children; a thread that finds both of them busy waits.

Where a response is judged wrong that another grader accepts, see `math_verify_pool`.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Mapping
from typing import Any

from .math_verify_pool import MathVerify
from .verifier import Case

__all__ = ["compute_score"]

_CHILDREN = 2  # of each process that calls it


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    r"""The reward of one response, with the arguments that verl passes by name.

    Args:
        data_source: the data set; not read.
        solution_str: the response as text.
        ground_truth: the reference answer, or an object that holds it as `target`.
        extra_info: not read.

    Returns:
        1.0 or 0.0. A comparison that takes too long is wrong.

    Raises:
        ValueError: math-verify is not installed, or the reference answer is neither text nor an object with `target`.

    Example:
        >>> compute_score("MATH", r"Half of it, \boxed{0.5}.", r"\frac{1}{2}")
        1.0
        >>> compute_score("MATH", r"\boxed{2}", {"target": "3"})
        0.0
    """
    answer = ground_truth.get("target") if isinstance(ground_truth, Mapping) else ground_truth
    if not isinstance(answer, str):
        raise ValueError(
            f"ground_truth: expected the reference answer as text, or an object with the text `target`, got "
            f"{ground_truth!r:.100}; prepare the data with recipes/full_scale/prepare_data.py"
        )
    verifiers = _verifiers()
    verifier = verifiers.get()
    try:
        (verdict,) = verifier.judge([Case("", solution_str, answer)])
    finally:
        verifiers.put(verifier)
    return float(verdict.correct)


@functools.cache
def _verifiers() -> queue.LifoQueue[MathVerify]:
    """Verifiers that no thread is using, the one that was used last first; each starts its child when it is needed."""
    verifiers: queue.LifoQueue[MathVerify] = queue.LifoQueue()
    for _ in range(_CHILDREN):
        verifiers.put(MathVerify())
    return verifiers
