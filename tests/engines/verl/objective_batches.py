"""Micro batches of verl made by hand, and the weights that its own `ppo_loss` gives their tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY, get_adv_estimator_fn
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from analysis.engines.verl import ObjectiveLossConfig, microbatch
from analysis.engines.verl.objectives.estimators import ESTIMATORS
from analysis.engines.verl.objectives.policy_losses import LOSSES
from analysis.objectives import Objective, ResponseBatch, TokenBatch

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
STEP = 3  # of verl's trainer
PROMPT = 2  # tokens of every prompt


@dataclass
class Rollouts:
    """A batch of responses; all tensors (B, T), uids (B,).

    Two prompts with four and with two responses, and a row as verl adds it to fill a minibatch. One response has a hole
    where a tool has answered.
    """

    log_probs: Tensor
    old: Tensor
    reference: Tensor
    sampled: Tensor
    entropy: Tensor
    mask: Tensor
    lengths: list[int]
    rewards: Tensor
    uids: np.ndarray

    @classmethod
    def make(cls, seed: int = 0) -> Rollouts:
        draw = torch.Generator().manual_seed(seed)
        lengths, width = [5, 3, 4, 5, 2, 4, 1], 5
        rows = len(lengths)

        def near(values: Tensor, size: float) -> Tensor:
            return (values + size * torch.randn(rows, width, generator=draw, dtype=torch.float64)).clamp(max=-1e-3)

        log_probs = -torch.rand(rows, width, generator=draw, dtype=torch.float64) * 2 - 0.05
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        mask[0, 2] = False
        mask[-1] = False
        return cls(
            log_probs,
            near(log_probs, 0.25),
            near(log_probs - 0.3, 0.3),  # so that the KL to it is above 0
            near(log_probs, 0.2),
            torch.rand(rows, width, generator=draw, dtype=torch.float64),
            mask,
            lengths,
            torch.tensor([1.0, 0, 1, 0, 0, 1, 0], dtype=torch.float64),
            np.array(["a", "a", "b", "a", "b", "a", "pad0"], dtype=object),
        )

    def groups(self) -> list[list[int]]:
        return [[row for row, uid in enumerate(self.uids) if uid == name] for name in ("a", "b")]

    def rows(self, chosen: list[int]) -> Rollouts:
        fields = {name: value[chosen] for name, value in vars(self).items() if name != "lengths"}
        return Rollouts(**fields, lengths=[self.lengths[row] for row in chosen])


@contextlib.contextmanager
def names_restored() -> Iterator[None]:
    """Names that are added within the block are gone after it."""
    tables = (ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY, ESTIMATORS, LOSSES)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, held in zip(tables, before, strict=True):
            table.clear()
            table.update(held)


def token_rewards(rollouts: Rollouts) -> Tensor:
    """The reward on the last token, as verl has it."""
    scores = torch.zeros_like(rollouts.log_probs)
    for row, length in enumerate(rollouts.lengths):
        scores[row, length - 1] = rollouts.rewards[row]
    return scores


def estimated(name: str, rollouts: Rollouts, **algorithm: Any) -> tuple[Tensor, Tensor]:
    """Advantages and returns of the estimator that verl knows by `name`."""
    estimate = get_adv_estimator_fn(name)
    return estimate(
        token_level_rewards=token_rewards(rollouts),
        response_mask=rollouts.mask.long(),
        config=algorithm,
        index=rollouts.uids,
    )


def micro_batch(rollouts: Rollouts, advantages: Tensor, returns: Tensor, dtype: torch.dtype, **info: Any) -> TensorDict:
    """What verl's engine hands to `ppo_loss`: nested tensors, and the size of the minibatch."""

    def nested(values: Tensor) -> Tensor:
        rows = [values[row, :length] for row, length in enumerate(rollouts.lengths)]
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    scores, ones = token_rewards(rollouts), torch.ones_like(rollouts.log_probs, dtype=torch.long)
    prompts = torch.nested.as_nested_tensor([torch.ones(PROMPT, dtype=torch.long)] * len(scores), layout=torch.jagged)
    data = TensorDict(
        {
            "prompts": prompts,
            "responses": nested(ones),
            "response_mask": nested(rollouts.mask.long()),
            "old_log_probs": nested(rollouts.old.to(dtype)),
            "ref_log_prob": nested(rollouts.reference.to(dtype)),
            "rollout_log_probs": nested(rollouts.sampled.to(dtype)),
            "entropy": nested(rollouts.entropy.to(dtype)),
            "advantages": nested(advantages.to(dtype)),
            "returns": nested(returns.to(dtype)),
            "rm_scores": nested(scores.to(dtype)),
        },
        [len(scores)],
    )
    tu.assign_non_tensor(data, **info)
    tu.assign_non_tensor_stack(data, "global_steps", [STEP] * len(scores))
    return data


def actor_config(mode: str, agg_mode: str = "token-mean", **settings: Any) -> FSDPActorConfig:
    loss = {key: settings.pop(key) for key in ("rlvr_parameters", "rlvr_threshold") if key in settings}
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=agg_mode,
        policy_loss=ObjectiveLossConfig(loss_mode=mode, **loss),
        **settings,
    )


def weights_by_verl(
    config: FSDPActorConfig,
    rollouts: Rollouts,
    advantages: Tensor,
    returns: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    engine: bool = True,
    is_weights: Tensor | None = None,
    **info: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """−∂L/∂log π (B, T) of verl's own `ppo_loss`, the loss and its metrics.

    Args:
        config: verl's settings of the actor.
        rollouts: the micro batch.
        advantages: (B, T).
        returns: (B, T).
        dtype: of everything.
        engine: whether an engine says which micro batch it is.
        is_weights: (B, T), verl's rollout correction.
        info: dp_size, batch_num_tokens, global_batch_size where they differ from the micro batch's own.
    """
    own = {"dp_size": 1, "batch_num_tokens": int(rollouts.mask.sum()), "global_batch_size": len(rollouts.mask)}
    data = micro_batch(rollouts, advantages, returns, dtype, **(own | info))
    if is_weights is not None:
        rows = [is_weights[row, :length].to(dtype) for row, length in enumerate(rollouts.lengths)]
        data["rollout_is_weights"] = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    leaf = torch.zeros(sum(length + PROMPT for length in rollouts.lengths), dtype=dtype)
    ends = torch.tensor([length + PROMPT for length in rollouts.lengths]).cumsum(0)
    places = [slice(int(end) - length - 1, int(end) - 1) for end, length in zip(ends, rollouts.lengths, strict=True)]
    for row, place in enumerate(places):  # one token to the left, as the model predicts
        leaf[place] = rollouts.log_probs[row, : rollouts.lengths[row]].to(dtype)
    leaf.requires_grad_()
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), ends])
    nested = torch.nested.nested_tensor_from_jagged(leaf, offsets)
    with microbatch.in_progress(data) if engine else contextlib.nullcontext():
        loss, metrics = ppo_loss(config, {"log_probs": nested}, data)
    loss.backward()
    weights = torch.zeros_like(rollouts.log_probs)
    assert leaf.grad is not None
    for row, place in enumerate(places):
        weights[row, : rollouts.lengths[row]] = -leaf.grad[place].double()
    return weights, loss.detach(), metrics


def expected_batch(objective: Objective, rollouts: Rollouts, advantages: Tensor, generator_seed: int) -> TokenBatch:
    """What the objective reads, in float64 and from the rollouts alone."""
    real = rollouts.mask
    rewards, accuracy = rollouts.rewards, torch.zeros_like(rollouts.rewards)
    for rows in rollouts.groups():
        accuracy[rows] = rewards[rows].mean()

    def at(values: Tensor) -> Tensor:
        return values.masked_fill(~real, 0)

    rows = real.any(1)
    gaps = at(rollouts.old - rollouts.reference)[rows].sum(1)
    batch = TokenBatch(
        at(rollouts.log_probs),
        at(rollouts.old),
        advantages,
        real,
        rewards,
        accuracy,
        entropy=at(rollouts.entropy),
        ref_log_probs=at(rollouts.reference),
        rollout_log_probs=at(rollouts.sampled),
        kl_baseline=gaps.mean().clamp(min=0).expand(len(rows)),
    )
    return objective.prepare(batch, torch.Generator().manual_seed(generator_seed))


def expected_advantages(objective: Objective, rollouts: Rollouts) -> Tensor:
    """(B,): each group as a part of its own, the added row 0."""
    parts = [
        ResponseBatch(rollouts.rewards[rows], len(rows), lengths=rollouts.mask[rows].sum(1))
        for rows in rollouts.groups()
    ]
    out = torch.zeros_like(rollouts.rewards)
    for rows, values in zip(rollouts.groups(), objective.advantages_of(parts), strict=True):
        out[rows] = values
    return out


def divisors(agg_mode: str, mask: Tensor, *, dp_size: int, tokens: int, rows: int) -> Tensor:
    """(B, 1): what verl's documentation of `loss_agg_mode` divides the loss of a token by, ranks averaged."""
    counts = mask.sum(1, keepdim=True).double()
    constant = {
        "token-mean": tokens,
        "token-sum": 1,
        "seq-mean-token-sum": rows,
        "seq-mean-token-sum-norm": rows * mask.shape[1],
    }
    if agg_mode == "seq-mean-token-mean":
        return counts.clamp(min=1) * rows / dp_size
    return torch.full_like(counts, constant[agg_mode] / dp_size)
