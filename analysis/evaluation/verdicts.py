"""Verdicts of a batch in which several rollouts give the same response to the same prompt: each pair is judged once."""

from __future__ import annotations

from collections.abc import Sequence

from toy_models.tasks.task import Task, verify_all
from toy_models.verifiers.verifier import Verdict

__all__ = ["verdicts"]


def verdicts(task: Task, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
    """`verify_all`, asked once for each distinct pair: verdicts depend on the prompt and the response alone.

    Args:
        task: the task that the prompts are from.
        prompts: token ids of each prompt.
        responses: token ids of the response to each.

    Returns:
        One verdict for each response, in their order.
    """
    pairs = [(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)]
    first = {pair: i for i, pair in reversed(list(enumerate(pairs)))}
    asked = sorted(first.values())
    judged = verify_all(task, [prompts[i] for i in asked], [responses[i] for i in asked])
    of_pair = {pairs[i]: verdict for i, verdict in zip(asked, judged, strict=True)}
    return [of_pair[pair] for pair in pairs]
