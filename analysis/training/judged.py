"""What the advantages of a rollout batch are made of: rewards, and whatever else the objective reads of the responses.

Greedy responses and the collision probabilities of positions cost a pass of the sampling model each, and are computed
for objectives that read them alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toy_models import Policy, Prompt, Samples, Task, Verdict, response_logits, teacher_batch, verify_all
from toy_models.end_tokens import policy_end_tokens

from ..common.bounded_sampling import bounded_sample
from ..errors import UsageError
from ..objectives import Objective, ResponseBatch
from ..recipes.fields import RolloutFields

__all__ = ["judged_responses", "score_of", "score_rewards"]

_ROWS = 256  # in one pass


def judged_responses(
    objective: Objective,
    policy: Policy,
    sampler: torch.nn.Module,
    task: Task,
    prompts: list[Prompt],
    samples: Samples,
    rewards: Tensor,
    fields: RolloutFields,
    limit: int,
    noise: tuple[float, float],
    generator: torch.Generator,
    scores: bool = False,
) -> ResponseBatch:
    """The responses that `sampler` drew, with their rewards (N,), as `objective` reads them.

    `limit` is the length of the longest response, `noise` the rates of false positives and negatives of the verifier;
    `generator` draws the noise of verdicts on greedy responses, whose rewards are scores with `scores`.
    """
    reads = objective.reads()
    lengths, log_probs = samples.lengths.cpu(), samples.log_probs.cpu().float()
    mask = torch.arange(log_probs.shape[1]) < lengths[:, None]
    greedy, collision = None, None
    if "greedy_rewards" in reads:
        verdicts = _greedy_verdicts(policy, sampler, task, prompts, limit, fields.batch_tokens)
        correct = torch.tensor([verdict.correct for verdict in verdicts])
        false_positive, false_negative = noise
        chance = torch.where(correct, false_negative, false_positive)
        flipped = torch.rand(len(prompts), generator=generator, dtype=torch.float64) < chance
        found = score_rewards(verdicts, prompts) if scores else correct ^ flipped
        greedy = found.to(rewards.dtype).repeat_interleave(fields.group_size)
    if "collision" in reads:
        collision = _collision(policy, sampler, prompts, samples, fields).where(mask, 0.0)
    return ResponseBatch(
        rewards,
        fields.group_size,
        mean_log_probs=log_probs.where(mask, 0.0).sum(1) / lengths,
        lengths=lengths,
        greedy_rewards=greedy,
        old_log_probs=log_probs if collision is not None else None,
        collision=collision,
        mask=mask if collision is not None else None,
    )


def score_rewards(verdicts: Sequence[Verdict], prompts: Sequence[Prompt]) -> Tensor:
    """(n,) float32: the score of each verdict, 1 or 0 for one without a score; the prompts are those of the responses.

    Raises:
        UsageError: A score is NaN or infinite; it names the prompt.
    """
    rewards = [float(verdict.correct) if (score := score_of(verdict)) is None else score for verdict in verdicts]
    for reward, prompt in zip(rewards, prompts, strict=True):
        if not math.isfinite(reward):
            raise UsageError(
                f"task.reward: expected finite scores, got {reward} for a response to the prompt {prompt.text!r}; give "
                "0 to a response without a score"
            )
    return torch.tensor(rewards)


def score_of(verdict: Any) -> float | None:
    """The score of a verdict; None for one without, such as an object with `correct` and `reason` alone."""
    score: float | None = getattr(verdict, "score", None)
    return score


def _greedy_verdicts(
    policy: Policy, sampler: torch.nn.Module, task: Task, prompts: list[Prompt], limit: int, max_tokens: int | None
) -> list[Verdict]:
    """The verdict on the most probable response to each prompt, token by token."""
    greedy = bounded_sample(
        sampler,
        [p.ids for p in prompts],
        max_tokens=max_tokens,
        group_size=1,
        max_new_tokens=limit,
        eos_id=policy_end_tokens(policy),
        pad_id=policy.pad_id,
        temperature=0.0,
    )
    return verify_all(task, [p.ids for p in prompts], _ids(greedy))


@torch.no_grad()
def _collision(
    policy: Policy, sampler: torch.nn.Module, prompts: list[Prompt], samples: Samples, fields: RolloutFields
) -> Tensor:
    """(N, R) Σ_v π_v² of softmax(z/T) at each position of the responses, by the model that sampled them; float32."""
    responses = _ids(samples)
    out = torch.zeros(samples.log_probs.shape)
    device = next(sampler.parameters()).device
    for rows in torch.arange(len(responses)).split(_ROWS):
        owners = [prompts[int(i) // fields.group_size].ids for i in rows]
        batch = teacher_batch(owners, [responses[int(i)] for i in rows], policy.pad_id, device)
        log_probs = (response_logits(sampler, batch).float() / fields.temperature).log_softmax(-1)
        values = (2 * log_probs).logsumexp(-1).exp().cpu()
        out[rows, : values.shape[1]] = values
    return out


def _ids(samples: Samples) -> list[list[int]]:
    lengths = samples.lengths.tolist()
    return [ids[:length] for ids, length in zip(samples.response_ids.tolist(), lengths, strict=True)]
