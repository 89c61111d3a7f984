"""The advantages of every objective as advantage estimators of verl.

verl calls an estimator on the driver with a whole batch: rewards and mask of each token, the uid of each row's prompt,
and `config.algorithm`. What it gets back:

    advantages   A of the row's response on each token of the policy, 0 elsewhere
    returns      q, the mean reward of the row's group, at every position

verl's actor does not read `returns`; losses that need q find it there (`microbatch`). The rows that verl adds to fill a
minibatch belong to no group and get 0. A response's reward is the sum over its tokens, as in verl's own estimators.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, register_adv_est

from ....errors import UsageError
from ....objectives import Objective, ResponseBatch
from ...objective_checks import binary_rewards
from .objective_settings import ADVANTAGE_SIDE, Named, Settings, estimators_besides, read_settings

__all__ = ["ESTIMATORS", "claim", "estimator", "is_of_verl", "kl_in_reward", "padding_rows", "response_rewards"]

_REMEDY = "add +algorithm.rlvr_threshold=0.5"
_LOGGER = logging.getLogger(__name__)


def is_of_verl(function: Callable[..., Any] | None) -> bool:
    """Whether a registered function is verl's own."""
    return function is not None and (getattr(function, "__module__", "") or "").startswith("verl.")


def claim(what: str, name: str, registry: MutableMapping[str, Any]) -> None:
    """UsageError where another plug-in has registered `name` already.

    Args:
        what: What is registered, "estimator" or "policy loss".
        name: Its name in verl.
        registry: verl's registry of them.
    """
    if name in registry:
        holder = getattr(registry[name], "__module__", "another module")
        raise UsageError(
            f"verl's {what} {name}: expected a name that is free, got one that {holder} has registered; load one of "
            "the two plug-ins (actor_rollout_ref.model.external_lib, VERL_USE_EXTERNAL_MODULES, verl.plugins)"
        )


def padding_rows(mask: Tensor, index: Sequence[Any] | None) -> Tensor:
    """Bool (B,): rows without tokens that verl has added to fill a minibatch.

    Args:
        mask: Bool (B, T), tokens of the policy.
        index: The uid of each row; where there is none, each row without tokens counts as added. A row of verl's own
            has no tokens and a uid that begins with "pad".
    """
    empty = ~mask.any(1)
    if index is None:
        return empty
    added = torch.tensor([str(uid).startswith("pad") for uid in index], device=mask.device)
    return empty & added


def response_rewards(
    objective: Objective, token_rewards: Tensor, real: Tensor, threshold: float | None, remedy: str
) -> Tensor:
    """The reward (B,) of each response in float64, or its verdict; 0 for rows that are not real.

    Args:
        objective: Says which rewards it can take.
        token_rewards: (B, T).
        real: Bool (B,), rows that are not there to fill a minibatch.
        threshold: A reward above it counts as 1, any other as 0; None where rewards stay as they are.
        remedy: How a threshold is set, for the message.

    Raises:
        UsageError: Rewards that are not finite, or not 0 and 1 where the objective is defined for these alone.
    """
    rewards = token_rewards.sum(-1, dtype=torch.float64).masked_fill(~real, 0)
    if not bool(rewards.isfinite().all()):
        row = int((~rewards.isfinite()).nonzero()[0, 0])
        raise UsageError(
            f"rewards: expected finite numbers, got {float(rewards[row])} for row {row}; correct the reward function"
        )
    return binary_rewards(objective, rewards, threshold, remedy=remedy)


def estimator(named: Named) -> Callable[..., tuple[Tensor, Tensor]]:
    """The advantages of an objective as a function that verl can register.

    Args:
        named: The objective under its name in verl.

    Returns:
        (token_level_rewards, response_mask, config, index) -> advantages and returns, each (B, T) in the dtype of the
        rewards.
    """

    def estimate(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        config: Any = None,
        index: Sequence[Any] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        config = {} if config is None else config
        if config.get("use_kl_in_reward", False):
            raise UsageError(kl_in_reward(named.name))
        settings = read_settings(config, ADVANTAGE_SIDE)
        return _advantages(named, settings, token_level_rewards, response_mask.bool(), index, _group_size(config))

    estimate.__name__ = estimate.__qualname__ = named.name
    estimate.__doc__ = f"Advantages of {named.objective}: {named.entry.weight}."
    return estimate


def kl_in_reward(name: str) -> str:
    """What is wrong with a KL in the reward."""
    return (
        f"algorithm.use_kl_in_reward: expected False with adv_estimator={name}, got True, which subtracts a KL from "
        "the reward of each token, so that rewards are verdicts no longer; set "
        "actor_rollout_ref.actor.use_kl_loss=True instead"
    )


def _group_size(config: Any) -> int | None:
    """Rollouts of a prompt as configured, None where the algorithm's settings stand alone."""
    if not isinstance(config, DictConfig):
        return None
    rollouts = OmegaConf.select(config._get_root(), "actor_rollout_ref.rollout.n")
    return rollouts if isinstance(rollouts, int) else None


def _advantages(
    named: Named,
    settings: Settings,
    token_rewards: Tensor,
    mask: Tensor,
    index: Sequence[Any] | None,
    rollouts: int | None,
) -> tuple[Tensor, Tensor]:
    objective = named.for_advantages(settings)
    real = ~padding_rows(mask, index)
    rewards = response_rewards(objective, token_rewards, real, settings.threshold, _REMEDY)
    groups = _groups(objective, real, index)
    _check_sessions(objective, groups, rollouts)
    accuracy = torch.zeros_like(rewards)
    for rows in groups:
        accuracy[rows] = rewards[rows].mean()
    advantages = torch.zeros_like(rewards)
    parts, places = _parts(objective, groups, rewards, mask.sum(1))
    for rows, values in zip(places, objective.advantages_of(parts) if parts else [], strict=True):
        advantages[rows] = values
    dtype = token_rewards.dtype  # float64 is for numbers of responses alone: a batch may have 10⁸ tokens
    return advantages.to(dtype)[:, None] * mask, accuracy.to(dtype)[:, None].expand_as(mask)


def _groups(objective: Objective, real: Tensor, index: Sequence[Any] | None) -> list[list[int]]:
    """Rows of each prompt, in the order of the batch; without uids each row stands alone."""
    if index is None and (objective.compares() or "accuracy" in objective.needs()):
        raise UsageError(
            f"estimator: expected the uid of each row, since {objective.name} compares the responses of a prompt, got "
            "none; call it with index=…"
        )
    rows_of: dict[Any, list[int]] = defaultdict(list)
    for row in real.nonzero()[:, 0].tolist():
        rows_of[row if index is None else index[row]].append(row)
    return list(rows_of.values())


def _check_sessions(objective: Objective, groups: list[list[int]], rollouts: int | None) -> None:
    largest = max(map(len, groups), default=0)
    if rollouts is not None and largest > rollouts and (objective.compares() or "accuracy" in objective.needs()):
        raise UsageError(
            f"estimator: {objective.name} compares the responses of a prompt and expected at most rollout.n = "
            f"{rollouts} of them, got {largest}: an agent loop that returns several outputs of one session, which "
            "verl's own grpo alone counts once; use an agent loop with one output, or an objective that weighs a "
            "response alone, such as psr, nsr or w_reinforce"
        )


def _parts(
    objective: Objective, groups: list[list[int]], rewards: Tensor, lengths: Tensor
) -> tuple[list[ResponseBatch], list[list[int]]]:
    """The groups as parts of one group size each, with the rows of each part. Groups that are too small to compare,
    because other rollouts of their prompt failed, are left out with a warning, and an error where no other is left."""
    by_size: dict[int, list[list[int]]] = defaultdict(list)
    for rows in groups:
        by_size[len(rows)].append(rows)
    parts, places, refusals = [], [], []
    for size, members in sorted(by_size.items()):
        try:
            objective.check_group_size(size)
        except UsageError as error:
            refusals.append((len(members), size, error))
            continue
        rows = [row for group in members for row in group]
        counts = lengths[rows] if "lengths" in objective.reads() else None
        parts.append(ResponseBatch(rewards[rows], size, lengths=counts))
        places.append(rows)
    if refusals and not parts:
        raise UsageError(str(refusals[0][2]).replace("rollout.group_size", "actor_rollout_ref.rollout.n"))
    for count, size, _ in refusals:
        _LOGGER.warning(
            "%s: %d prompts have %d finished responses, too few to compare; these responses get no weight",
            objective.name,
            count,
            size,
        )
    return parts, places


def _register() -> dict[str, Named]:
    of_verl = [name for name, function in ADV_ESTIMATOR_REGISTRY.items() if is_of_verl(function)]
    table = estimators_besides(of_verl)
    for name in table:
        claim("estimator", name, ADV_ESTIMATOR_REGISTRY)
    for name, named in table.items():
        register_adv_est(name)(estimator(named))
    return table


ESTIMATORS = _register()  # by their names in verl
