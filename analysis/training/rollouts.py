"""From prompts to rewarded responses: one rollout batch of a training step.

Prompts are drawn without replacement from a fresh permutation of the training prompts; each gets a group of sampled
responses, which the task's verifier judges exactly. Verifier noise flips rewards after the verdict, with one uniform
per rollout whether it is used or not. Where scores are rewards (`task.reward`), the sign of a response is its verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toy_models import Policy, Prompt, Task, Verdict
from toy_models.end_tokens import policy_end_tokens

from ..common.bounded_sampling import bounded_sample
from ..common.randomness import Streams
from ..errors import DivergedError, UsageError
from ..evaluation.verdicts import verdicts
from ..objectives import Objective, ResponseBatch, accuracy_of
from ..recipes.fields import RolloutFields
from .judged import judged_responses, score_rewards

__all__ = ["PromptCursor", "RolloutBatch", "collect_rollouts"]


class PromptCursor:
    """Walks through permutations of the training prompts, a step's worth at a time; its state can be saved."""

    def __init__(self, n_prompts: int, per_step: int, generator: torch.Generator) -> None:
        if per_step > n_prompts:
            raise UsageError(
                f"rollout.prompts: expected at most task.train_prompts = {n_prompts}, got {per_step}; "
                "draw fewer prompts per step or train on more"
            )
        self._per_step, self._generator, self._n = per_step, generator, n_prompts
        self._order: list[int] = []

    def next(self) -> list[int]:
        if len(self._order) < self._per_step:
            self._order = torch.randperm(self._n, generator=self._generator).tolist()
        taken, self._order = self._order[: self._per_step], self._order[self._per_step :]
        return taken

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self._order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order = list(state["order"])


@dataclass(frozen=True)
class RolloutBatch:
    """The responses of one step as they were collected; rollout i belongs to prompt i // group_size.

    Tensors live on the CPU. The tokens were drawn from a distribution that top-k and top-p truncate: its log-probs and
    entropy are `sampling_log_probs` and `sampling_entropy`, and `kept_mass` is the mass under softmax(z/T) of the
    tokens that it leaves. `entropy` is that of softmax(z/T), the policy's own distribution, which updates
    differentiate, as the sampler saw it. All four serve the records only. `token_advantages` (N, R) are those of an
    objective that has one for each token, of which `advantages` is the mean; `judged` is what the advantages were made
    of. What the updates are measured against is a value of its own, `StepTargets`.
    """

    step: int
    prompts: list[Prompt]
    group_size: int
    responses: list[list[int]]
    lengths: Tensor
    finished: Tensor
    sampling_log_probs: Tensor
    sampling_entropy: Tensor
    kept_mass: Tensor
    entropy: Tensor
    verdicts: list[Verdict]
    correct: Tensor
    rewards: Tensor
    flipped: Tensor
    advantages: Tensor
    selected: Tensor
    token_advantages: Tensor | None = None
    judged: ResponseBatch | None = None

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def rewarded(self) -> Tensor:
        """Bool (N,): the sign of each row. Whether its verdict, after verifier noise, is correct."""
        return self.correct ^ self.flipped

    def prompt(self, rollout: int) -> Prompt:
        return self.prompts[rollout // self.group_size]

    def accuracy(self) -> Tensor:
        """(N,) mean reward of each rollout's group."""
        return accuracy_of(self.rewards, self.group_size)

    def policy_log_probs(self) -> Tensor:
        """(N, R) log π of each token under softmax(z/T) of the model that sampled, zero at padding."""
        return (self.sampling_log_probs + self.kept_mass.log()).where(self.mask(), 0.0)

    def mask(self) -> Tensor:
        """Bool (N, R): which positions hold response tokens."""
        return torch.arange(self.sampling_log_probs.shape[1]) < self.lengths[:, None]


def collect_rollouts(
    policy: Policy,
    sampler: torch.nn.Module,
    task: Task,
    prompts: list[Prompt],
    objective: Objective,
    fields: RolloutFields,
    streams: Streams,
    step: int,
    *,
    false_positive: float = 0.0,
    false_negative: float = 0.0,
    scores: bool = False,
) -> RolloutBatch:
    """Sample from `sampler` (the policy's model or its copy), verify, reward and weigh one batch of rollouts.

    Advantages are those of the objective from the (possibly noisy) rewards; rows with advantage 0 are not `selected`,
    whatever a KL penalty adds to them later. `false_positive` and `false_negative` are the verifier's noise; with
    `scores`, which excludes noise, rewards are the numbers that the verifier gave.
    """
    n = len(prompts) * fields.group_size
    limit = fields.max_new_tokens or task.max_new_tokens
    # As many as for the task's longest response, so that a lower limit cuts the same responses short.
    uniforms = streams.uniforms("rollouts", n, max(limit, task.max_new_tokens))
    try:
        samples = bounded_sample(
            sampler,
            [p.ids for p in prompts],
            max_tokens=fields.batch_tokens,
            group_size=fields.group_size,
            max_new_tokens=limit,
            eos_id=policy_end_tokens(policy),
            pad_id=policy.pad_id,
            temperature=fields.temperature,
            top_k=fields.top_k,
            top_p=fields.top_p,
            uniforms=uniforms[:, :limit],
        )
    except FloatingPointError as error:
        raise DivergedError(f"step {step}: {error}; a lower optimizer.lr usually helps") from error
    lengths = samples.lengths.cpu()
    responses = [ids[:length] for ids, length in zip(samples.response_ids.tolist(), lengths.tolist(), strict=True)]
    judgements = verdicts(task, [p.ids for p in prompts for _ in range(fields.group_size)], responses)
    correct = torch.tensor([v.correct for v in judgements])
    flip_probability = torch.where(correct, false_negative, false_positive)
    flipped = streams.uniforms("noise", n) < flip_probability
    rewards = (correct ^ flipped).float()
    if scores:
        rewards = score_rewards(judgements, [p for p in prompts for _ in range(fields.group_size)])
    noise = false_positive, false_negative
    judged = judged_responses(
        objective, policy, sampler, task, prompts, samples, rewards, fields, limit, noise, streams["objective"], scores
    )
    found = objective.advantages_of([judged])[0]
    token_advantages = found if found.ndim == 2 else None
    advantages = found if token_advantages is None else token_advantages.sum(1) / lengths
    selected = objective.selected(found)
    return RolloutBatch(
        step=step,
        prompts=prompts,
        group_size=fields.group_size,
        responses=responses,
        lengths=lengths,
        finished=samples.finished.cpu(),
        sampling_log_probs=samples.sampling_log_probs.cpu().float(),
        sampling_entropy=samples.sampling_entropy.cpu().float(),
        kept_mass=(samples.log_probs - samples.sampling_log_probs).exp().cpu().float(),
        entropy=samples.entropy.cpu().float(),
        verdicts=judgements,
        correct=correct,
        rewards=rewards,
        flipped=flipped,
        advantages=advantages,
        selected=selected if token_advantages is None else selected.any(1),
        token_advantages=token_advantages,
        judged=judged,
    )
