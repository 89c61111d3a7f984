"""Whether a GRPOTrainer of TRL can train on an objective: what its batches lack, and settings that contradict it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from ..errors import UsageError
from ..objectives import Objective, get, parse_objective
from ..records.hypothetical_weights import needs_verdicts

__all__ = ["LOSS_TYPES", "binary_rewards", "check_config", "check_objective", "objective_of", "reads_reference"]

LOSS_TYPES = ("dapo", "bnpo", "grpo", "dr_grpo", "luspo")  # those of TRL that differ in their divisor alone

_OWN_SETTING = {
    "epsilon": "clip_low and clip_high",
    "epsilon_high": "clip_high",
    "delta": "dual_clip",
    "importance_sampling_level": "an objective of responses such as gspo",
    "scale_rewards": "its parameter advantage",
    "multi_objective_aggregation": "the objective gdpo",
    "off_policy_mask_threshold": "off_policy_threshold",
    "use_bias_correction_kl": "the objective kl-k3-corrected",
    "sapo_temperature_neg": "the objective sapo and its tau_neg",
    "sapo_temperature_pos": "the objective sapo and its tau_pos",
    "vespo_k_pos": "the objective vespo and its vespo_k_pos",
    "vespo_lambda_pos": "the objective vespo and its vespo_lambda_pos",
    "vespo_k_neg": "the objective vespo and its vespo_k_neg",
    "vespo_lambda_neg": "the objective vespo and its vespo_lambda_neg",
}


def objective_of(objective: str | Objective, parameters: dict[str, Any]) -> Objective:
    """The objective that was passed, or that its name and parameters give; UsageError where there is none."""
    if isinstance(objective, str):
        return get(objective, **parameters) if parameters else parse_objective(objective)
    if not isinstance(objective, Objective):
        raise UsageError(
            f"objective: expected a name or an Objective, got {type(objective).__name__}; make one with "
            "analysis.objectives.get"
        )
    if parameters:
        raise UsageError(
            f"objective: expected its name beside {', '.join(parameters)}, got an Objective, whose parameters are "
            "resolved; pass the name, or give them to analysis.objectives.get"
        )
    return objective


def reads_reference(objective: Objective) -> bool:
    """Whether the objective itself reads the log-probs of a reference policy."""
    return "ref_log_probs" in objective.needs()


def check_objective(objective: Objective) -> None:
    """UsageError for an objective that needs what no batch of TRL holds, or that has no weight of each token."""
    needs, reads = objective.needs(), objective.reads()
    for refused, why in (
        (
            not objective.entry.scalar,
            "is a regulariser over the vocabulary, and TRL's batch has log-probs of sampled tokens alone; set "
            "entropy_coef or beta in GRPOConfig",
        ),
        (objective.coupling == "pair", "compares pairs of responses, which TRL's batch lacks; use TRL's DPOTrainer"),
        (
            "teacher_log_probs" in needs,
            "learns from a teacher, whose log-probs TRL's batch lacks; use a trainer of distillation",
        ),
        (
            "greedy_rewards" in reads,
            "subtracts the reward of each prompt's greedy response, which TRL's batch lacks; choose rloo or dr-grpo",
        ),
        (
            "collision" in reads,
            "weighs positions by Σ_v π_v² of the sampling policy, which TRL's batch lacks; choose rloo or dr-grpo",
        ),
        (
            "token_weights" in needs,
            "reads the token weights of a reward model, which TRL's batch lacks; choose another objective",
        ),
    ):
        if refused:
            raise UsageError(f"objective: {objective.name} {why}")


def check_config(objective: Objective, rows: str, threshold: float | None, config: Any, *, own_rollouts: bool) -> None:
    """UsageError for settings of a `GRPOConfig` that contradict the objective, or that it lacks.

    Args:
        objective: the objective.
        rows: "keep" or "drop".
        threshold: of real-valued rewards.
        config: the `GRPOConfig`.
        own_rollouts: whether a `rollout_func` of the user makes the rollouts.
    """
    check_objective(objective)
    if rows not in ("keep", "drop"):
        raise UsageError(f"rows: expected keep or drop, got {rows!r}; drop leaves out rows whose advantage is 0")
    if threshold is not None and (isinstance(threshold, bool) or not math.isfinite(threshold)):
        raise UsageError(f"threshold: expected a finite number, got {threshold}; a reward above it counts as 1")
    if config.loss_type not in LOSS_TYPES:
        raise UsageError(
            f"args.loss_type: expected {', '.join(LOSS_TYPES)}, by whose divisor the token losses of {objective.name} "
            f"are summed, got {config.loss_type}, which is a loss of its own; name it as the objective instead"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, instead in _OWN_SETTING.items():
        if name in defaults and getattr(config, name) != defaults[name]:
            raise UsageError(
                f"args.{name}: expected TRL's default ({defaults[name]}), since the loss is that of {objective.name}, "
                f"got {getattr(config, name)}; leave it unset and use {instead}"
            )
    objective.check_group_size(config.num_generations)
    if "rollout_log_probs" in objective.needs():
        if not (config.use_vllm or own_rollouts):
            raise UsageError(
                f"objective: {objective.name} with these parameters corrects for the log-probs of the engine that "
                "sampled, got rollouts of the model itself, which have none; set use_vllm or leave rollout_is and "
                "rollout_reject unset"
            )
        if config.use_vllm and config.vllm_importance_sampling_correction:
            raise UsageError(
                "args.vllm_importance_sampling_correction: expected False, since the objective corrects for the "
                "sampling engine itself, got True, which would correct twice; set it to False"
            )
    accumulation = config.gradient_accumulation_steps
    if objective.coupling == "minibatch" and (accumulation != 1 or config.world_size != 1):
        raise UsageError(
            f"objective: {objective.name} chooses tokens over a minibatch, so it expects one microbatch on one process "
            f"for each optimiser step, got {accumulation} on {config.world_size}; set gradient_accumulation_steps to 1"
        )
    if rows == "drop":
        _check_drop(config)


def _check_drop(config: Any) -> None:
    steps, accumulation = config.steps_per_generation, config.gradient_accumulation_steps
    if steps % accumulation:
        raise UsageError(
            f"rows: drop expects steps_per_generation to be a multiple of gradient_accumulation_steps, got {steps} and "
            f"{accumulation}; change one of them or set rows to keep"
        )
    if config.deepspeed or config.fp16:
        which = "DeepSpeed" if config.deepspeed else "fp16"
        raise UsageError(
            f"rows: drop skips optimiser steps without rows, which {which} does not allow, got {which}; set rows to "
            "keep, or train in bf16 with DDP or FSDP"
        )


def binary_rewards(
    objective: Objective, rewards: Tensor, threshold: float | None, *, remedy: str = "pass threshold=…"
) -> Tensor:
    """The rewards, or whether they exceed the threshold; UsageError where the objective needs 0 and 1 and gets others.

    `remedy` says how a threshold is set.

    >>> import torch
    >>> binary_rewards(get("psr", form="log"), torch.tensor([0.7, 0.2]), 0.5)
    tensor([1., 0.])
    """
    if threshold is not None:
        return (rewards > threshold).to(rewards.dtype)
    other = (rewards != 0) & (rewards != 1)
    if needs_verdicts(objective) and bool(other.any()):
        row = int(other.nonzero()[0, 0])
        raise UsageError(
            f"rewards: {objective.name} is defined for 0 and 1, got {float(rewards[row]):g} for completion {row}; "
            f"{remedy}, above which a reward counts as 1 and otherwise as 0"
        )
    return rewards
