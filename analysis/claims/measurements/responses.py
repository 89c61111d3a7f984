"""Responses that a base samples, with their verdicts, ready to be forwarded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toy_models import (
    BASES,
    Policy,
    Prompt,
    Task,
    TeacherBatch,
    ensure_base,
    get_task,
    load_policy,
    sample,
    teacher_batch,
)
from toy_models.end_tokens import policy_end_tokens

__all__ = ["SampledResponses", "base_and_task", "sampled"]


@dataclass(frozen=True)
class SampledResponses:
    """Of n rollouts, G to each prompt.

    Attributes:
        prompts: Token ids of each rollout's prompt.
        responses: Token ids of each response.
        batch: Both, padded.
        correct: Verdict of the task, (n,) bool.
    """

    prompts: list[tuple[int, ...]]
    responses: list[list[int]]
    batch: TeacherBatch
    correct: Tensor


def base_and_task(base: str, seed: int) -> tuple[Policy, Task]:
    """The base of a seed, which is made where it is not cached, and its task."""
    ensure_base(base, seed)
    policy = load_policy(base, seed=seed)
    return policy, get_task(BASES[base].task, policy.tokenizer)


def sampled(
    policy: Policy, task: Task, prompts: Sequence[Prompt], group_size: int, generator: torch.Generator
) -> SampledResponses:
    """Draw `group_size` responses to each prompt at temperature 1."""
    ids = [tuple(prompt.ids) for prompt in prompts]
    limit = task.max_new_tokens
    with torch.no_grad():
        drawn = sample(
            policy.model,
            ids,
            group_size=group_size,
            max_new_tokens=limit,
            eos_id=policy_end_tokens(policy),
            pad_id=policy.pad_id,
            uniforms=torch.rand(len(ids) * group_size, limit, generator=generator, dtype=torch.float64),
        )
    responses = [row[:n] for row, n in zip(drawn.response_ids.tolist(), drawn.lengths.tolist(), strict=True)]
    owners = [ids[i // group_size] for i in range(len(responses))]
    correct = torch.tensor([task.verify(x, y).correct for x, y in zip(owners, responses, strict=True)])
    return SampledResponses(owners, responses, teacher_batch(owners, responses, policy.pad_id), correct)
