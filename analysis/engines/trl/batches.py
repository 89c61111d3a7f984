"""What a TRL trainer handed out while it trained: the rollouts of a generation batch and the microbatches of an update.

Definitions of what TRL keeps to itself, with ρ the ratio of a token and A its advantage:

    token level       ρ = exp(log π_y − log π_old,y)              grpo, bnpo, dr_grpo, dapo, cispo, sapo, vespo
    sequence level    ρ = exp of the mean of log π − log π_old    `importance_sampling_level="sequence"` (gspo, luspo)
    RLOO              ρ = exp of their sum over the response
    GMPO              ρ of the token, clipped in log space at −epsilon and +epsilon_high

    clip              −1 for ρ < 1 − ε and A < 0;  +1 for ρ > 1 + ε_high and A > 0, and for ρ > delta and A < 0 (where
                      delta is below 1 + ε_high the two bounds change places): what TRL's loss has no gradient for
    cispo             +1 for ρ > ε_high of either sign;  sapo and vespo clip nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...laws import TokenStatistics
from ...probes.weight_probe import WeightProbe
from ..update_parts import Weights

__all__ = [
    "Generation",
    "Microbatch",
    "check_rewards",
    "class_names",
    "normalizer_of",
    "policy_mask",
    "ratio_and_clip",
]

_PPO_LIKE = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
_OWN_LOSSES = ("trl", "analysis")  # packages whose losses the definitions above describe


@dataclass
class Generation:
    """One generation batch: this process's B rollouts, and what is known of all N of them."""

    step: int
    first: int  # number of this process's first rollout in the whole batch
    prompts: list[list[int]]  # (B)
    responses: list[list[int]]  # (B) as they were generated, before TRL masks truncated ones
    lengths: list[int]  # (B) tokens that the policy sampled
    texts: list[tuple[str, str]]  # (B) prompt and response
    finished: list[bool]  # (B)
    advantages: np.ndarray | None  # (B,); None where advantages are of tokens
    reward_values: np.ndarray  # (N, functions), NaN where a function gave none
    rewards: np.ndarray  # (N,), NaN where every function gave none
    correct: np.ndarray | None  # (N,) bool
    prompt_ids: list[str]  # (N)
    signs: np.ndarray  # (N,) sign of the advantage
    all_lengths: np.ndarray  # (N,)
    group_size: int
    microbatches: int  # of all iterations over it
    chosen: frozenset[str] = frozenset()  # prompts whose tokens are recorded
    dropped: np.ndarray | None = None  # (B,) bool
    entropy: list[tuple[float, float]] = field(
        default_factory=list
    )  # Σ H and tokens (N rollouts) of updates of epoch 0
    updates: int = 0  # made from it, skipped ones not counted

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def groups(self) -> np.ndarray:
        """(N,) number of each rollout's group."""
        return np.arange(len(self.prompt_ids)) // self.group_size

    @property
    def own(self) -> slice:
        """This process's rollouts among all of them."""
        return slice(self.first, self.first + len(self))


@dataclass(eq=False)
class Microbatch:
    """One microbatch of an update in this process: (B, C) tensors of its responses, and hooks on its gradients."""

    generation: Generation
    update: int
    epoch: int
    minibatch: int
    rows: Tensor  # (B,) numbers of the rollouts
    tokens: Tensor  # (B, C)
    mask: Tensor  # (B, C) bool, tokens of the policy
    advantages: Tensor  # (B, C)
    inputs: dict[str, Any]  # as TRL handed them to the loss
    log_probs: Tensor | None = None  # (B, C), detached
    graph: Tensor | None = None  # the same with their graph, until the loss is known
    entropies: Tensor | None = None  # (B, C), detached
    keep: Tensor | None = None  # (n,) flat places of the recorded tokens
    stats: TokenStatistics | None = None  # (n,)
    ratio: Tensor | None = None  # (B, C)
    clip: Tensor | None = None  # (B, C); None where the trainer's loss is its own
    loss: float = 0.0  # as TRL's method returned it
    normalizer: float | None = None
    scale: float = 1.0  # world size times the factor of mixed precision
    weight_probe: WeightProbe | None = None
    entropy_probe: WeightProbe | None = None
    loss_probe: WeightProbe | None = None
    kl_gradient: Tensor | None = None  # (B, C) float64, ∂(KL part of the loss)/∂log π, by replay
    replayed: Tensor | None = None  # (B, C) float64, ∂loss/∂log π, by replay
    replayed_entropy: Tensor | None = None

    @property
    def ref_log_probs(self) -> Tensor | None:
        """(B, C) log-probs of the reference, None without one."""
        return self.inputs.get("ref_per_token_logps")

    @property
    def entropy_mask(self) -> Tensor:
        """(B, C) bool: TRL computes the entropy of every token."""
        return self.mask

    @property
    def caught(self) -> bool:
        """Whether a backward pass reached the log-probs."""
        return self.weight_probe is not None and self.weight_probe.reached

    def take(self) -> Weights:
        """The weights that the backward passes brought; once."""
        assert self.weight_probe is not None
        assert self.loss_probe is not None
        total = self.weight_probe.take().double() / self.scale
        factor = -float(self.loss_probe.take()) / self.scale  # of the loss in the update's loss
        entropy = None
        if self.entropy_probe is not None and self.entropy_probe.caught:
            entropy = self.entropy_probe.take().double() / self.scale
        kl = None if self.kl_gradient is None else -factor * self.kl_gradient
        return Weights(total if kl is None else total - kl, kl, entropy, factor)

    def release(self) -> None:
        """Take the hooks away."""
        for probe in (self.weight_probe, self.entropy_probe, self.loss_probe):
            if probe is not None:
                probe.remove()


def class_names(trainer: Any) -> set[str]:
    """Names of the trainer's class and of all that it inherits from."""
    return {kind.__name__ for kind in type(trainer).__mro__}


def policy_mask(inputs: dict[str, Any]) -> Tensor:
    """Bool (B, C): tokens that the policy sampled, without padding and without what tools wrote."""
    mask: Tensor = inputs["completion_mask"].bool()
    tool = inputs.get("tool_mask")
    return mask if tool is None else mask & tool.bool()


def ratio_and_clip(trainer: Any, inputs: dict[str, Any], log_probs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Ratio and clip (B, C) of a microbatch, by the definitions at the head of this module.

    Args:
        trainer: the trainer, whose settings say which definition holds.
        inputs: the microbatch.
        log_probs: (B, C), without a graph.

    Returns:
        The ratio, and −1, 0 or +1; None instead of the latter for a loss that neither TRL nor this project wrote.
    """
    mask = policy_mask(inputs)
    advantages = inputs["advantages"]
    advantages = advantages[:, None] if advantages.ndim == 1 else advantages
    names, args = class_names(trainer), trainer.args
    if "RLOOTrainer" in names:
        log_ratio = (log_probs.double() * mask).sum(1) - inputs["old_logps"]
        log_ratio = log_ratio[:, None].expand_as(log_probs)
    else:
        old = inputs.get("old_per_token_logps")
        log_ratio = torch.zeros_like(log_probs) if old is None else log_probs - old
        log_ratio = log_ratio.double()
        if getattr(trainer, "importance_sampling_level", "token") == "sequence":
            means = (log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            log_ratio = means.expand_as(log_probs)
    ratio = log_ratio.exp()
    if "ObjectiveTrainer" in names:
        return ratio, trainer.token_clips
    if type(trainer)._compute_loss.__module__.split(".")[0] not in _OWN_LOSSES:
        return ratio, None
    loss_type = getattr(trainer, "loss_type", "rloo")
    clip = torch.zeros_like(ratio, dtype=torch.int8)
    if "GMPOTrainer" in names:
        clip[(log_ratio < -trainer.epsilon_low) & (advantages < 0)] = -1
        clip[(log_ratio > trainer.epsilon_high) & (advantages > 0)] = 1
    elif loss_type == "cispo":
        clip[ratio > trainer.epsilon_high] = 1
    elif loss_type == "rloo" or loss_type in _PPO_LIKE:
        above = 1 + trainer.epsilon_high
        delta = None if loss_type == "rloo" else getattr(args, "delta", None)
        clip[(ratio < 1 - trainer.epsilon_low) & (advantages < 0)] = -1
        clip[(ratio > (above if delta is None else min(above, delta))) & (advantages > 0)] = 1
        if delta is not None:
            clip[(ratio > max(above, delta)) & (advantages < 0)] = 1
    return ratio, clip


def normalizer_of(trainer: Any, inputs: dict[str, Any]) -> float | None:
    """What the summed token losses of an update are divided by; None where that differs between responses or parts."""
    world, names = trainer.accelerator.num_processes, class_names(trainer)
    accumulation = getattr(trainer, "current_gradient_accumulation_steps", trainer.args.gradient_accumulation_steps)
    rows = len(inputs["completion_mask"])
    if "GMPOTrainer" in names or "RLOOTrainer" in names:
        return None
    loss_type = trainer.loss_type
    if loss_type in ("dapo", "cispo", "vespo"):
        tokens = max(float(inputs["num_items_in_batch"]), 1.0)
        return tokens * accumulation / trainer.args.steps_per_generation
    if loss_type == "dr_grpo":
        return float(rows * trainer.max_completion_length * accumulation * world)
    return float(rows * accumulation * world) if loss_type == "luspo" else None


def check_rewards(values: np.ndarray, names: Sequence[str]) -> None:
    """UsageError for a reward that is infinite, from which advantages and weights would be NaN."""
    bad = np.argwhere(np.isinf(values))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise UsageError(
            f"rewards: expected finite numbers or None, got {values[row, column]} from {names[column]} for completion "
            f"{row}; advantages and weights of its group would be NaN. Return None for a completion without a reward"
        )
