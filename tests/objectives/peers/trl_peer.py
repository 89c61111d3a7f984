"""TRL's trainers, without their models: their methods run on an object that has just the attributes they read.

What a method computes is TRL's; log-probabilities, entropies, completions and rewards are given to it. The object has
no attribute beyond those below, so a version of TRL that reads another one fails loudly.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

__all__ = ["grpo_advantages", "grpo_loss", "grpo_weights", "rloo_advantages", "rloo_weights", "trainer"]


def trainer(module: str, name: str) -> Any:
    """A class of TRL, such as trainer("trl.trainer.grpo_trainer", "GRPOTrainer"); skips where TRL is not installed."""
    pytest.importorskip("trl", reason="trl is not installed")
    return getattr(importlib.import_module(module), name)


def accelerator() -> SimpleNamespace:
    """One process on the CPU."""
    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        is_main_process=True,
        sync_gradients=True,
        gather=lambda values: values,
        gather_for_metrics=lambda values: values,
        reduce=lambda values, reduction="sum": values,
        pad_across_processes=lambda values, **_: values,
        autocast=nullcontext,
    )


def _defaults(config: str, fields: dict[str, Any]) -> SimpleNamespace:
    """TRL's default of every field of a config, changed by `fields`; the config's checks of hardware are left out."""
    owner = trainer(f"trl.trainer.{config.lower()}_config", f"{config}Config")
    known = {
        name: field.default if not callable(field.default_factory) else field.default_factory()
        for name, field in owner.__dataclass_fields__.items()
    }
    assert fields.keys() <= known.keys(), f"no field of {config}Config: {sorted(fields.keys() - known.keys())}"
    return SimpleNamespace(**(known | fields))


def _stub(config: str, fields: dict[str, Any], **more: Any) -> SimpleNamespace:
    args = _defaults(config, fields)
    args.report_to = []
    args.steps_per_generation = 1
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    stub = SimpleNamespace(
        args=args,
        accelerator=accelerator(),
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        state=SimpleNamespace(global_step=0),
        beta=args.beta,
        epsilon_low=args.epsilon,
        epsilon_high=high,
        max_completion_length=args.max_completion_length,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    if config == "GRPO":
        stub.loss_type = args.loss_type
        stub.importance_sampling_level = args.importance_sampling_level
        stub.top_entropy_quantile = args.top_entropy_quantile
        stub.off_policy_mask_threshold = args.off_policy_mask_threshold
        stub.use_vllm = False
        stub.vllm_importance_sampling_correction = True
        stub.entropy_coef = getattr(args, "entropy_coef", 0.0) or 0.0
        stub.use_adaptive_entropy = getattr(args, "use_adaptive_entropy", False)
        stub._entropy_bonus_enabled = stub.entropy_coef != 0.0 or stub.use_adaptive_entropy
        stub._last_world_entropy = 0.0
        stub._entropy_window_stats = None
    for name, value in more.items():
        setattr(stub, name, value)
    return stub


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    ref_log_probs: Tensor | None = None,
    entropies: Tensor | None = None,
    sampling_log_probs: Tensor | None = None,
    sampling_ratio: Tensor | None = None,
    attributes: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    **fields: Any,
) -> Tensor:
    """`GRPOTrainer._compute_loss` of one batch.

    Args:
        log_probs: of the current policy, (B, T), differentiable.
        old_log_probs: None for an update on the policy that sampled.
        advantages: (B,).
        mask: (B, T).
        ref_log_probs: needed where beta is set.
        entropies: needed where top_entropy_quantile is below 1 or entropy has a coefficient; differentiable.
        sampling_log_probs: of the sampler, for off_policy_mask_threshold.
        sampling_ratio: the correction π_old/π_sampler that vLLM's sampler needs, (B, T) or (B, 1).
        attributes: other attributes of the trainer, for example `_last_world_entropy`.
        after: receives the trainer's attributes after the call.
        fields: of `GRPOConfig`, with TRL's defaults.
    """
    owner = trainer("trl.trainer.grpo_trainer", "GRPOTrainer")
    shown = torch.zeros_like(log_probs) if entropies is None else entropies
    stub = _stub("GRPO", fields, **(attributes or {}))
    stub._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, shown, None)
    for method in ("get_off_policy_mask", "get_gamma_weights"):
        setattr(stub, method, getattr(owner, method))
    stub.get_high_entropy_mask = lambda *values: owner.get_high_entropy_mask(stub, *values)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask.to(log_probs),
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    given = {
        "old_per_token_logps": old_log_probs,
        "ref_per_token_logps": ref_log_probs,
        "sampling_per_token_logps": sampling_log_probs,
        "importance_sampling_ratio": sampling_ratio,
    }
    inputs |= {name: value for name, value in given.items() if value is not None}
    stub.use_vllm = sampling_ratio is not None
    value: Tensor = owner._compute_loss(stub, None, inputs)
    if after is not None:
        after.update(vars(stub))
    return value


def grpo_weights(
    log_probs: Tensor, old_log_probs: Tensor | None, advantages: Tensor, mask: Tensor, **fields: Any
) -> Tensor:
    """Minus the derivative of `grpo_loss` in log π of each token, times the number of unmasked tokens.

    With the loss types bnpo, dapo, cispo and vespo, which divide by that number, it is the weight of the token.
    """
    leaf = log_probs.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(grpo_loss(leaf, old_log_probs, advantages, mask, **fields), leaf)
    return -gradient * mask.sum()


def _scored(config: str, rewards: Tensor, group_size: int, fields: dict[str, Any], **more: Any) -> Any:
    """The output of `_generate_and_score_completions` for rewards (B,) or (B, functions)."""
    columns = rewards[:, None] if rewards.ndim == 1 else rewards
    weights = fields.get("reward_weights")
    width = int(more.pop("width", 1))
    stub = _stub(
        config,
        fields,
        num_generations=group_size,
        reward_weights=torch.ones(columns.shape[1]) if weights is None else torch.tensor(weights),
        reward_funcs=[None] * columns.shape[1],
        reward_func_names=[f"function {i}" for i in range(columns.shape[1])],
        environment_factories=None,
        environments=None,
        tools=None,
        use_vllm=False,
        ref_model=object(),
        num_iterations=1,
        mask_truncated_completions=False,
        pad_to_multiple_of=None,
        log_multimodal=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _logs={name: [] for name in ("prompt", "completion", "advantages")} | {"rewards": defaultdict(list)},
        _pending_extra_logs={},
        _pending_metrics={},
        **more,
    )
    if config == "GRPO":
        stub.multi_objective_aggregation = stub.args.multi_objective_aggregation
        scale = stub.args.scale_rewards
        stub.scale_rewards = {True: "group", False: "none"}.get(scale, scale)
    else:
        stub.normalize_advantages = stub.args.normalize_advantages
        stub.reward_clip_range = stub.args.reward_clip_range
    completions = [[1] * width] * len(columns)
    generated = [[1]] * len(columns), completions, None, [""] * len(columns), None, None, None, None
    if config == "RLOO":
        generated = ([[1]] * len(columns), completions, [""] * len(columns))
    stub._generate = lambda prompts: generated
    stub._calculate_rewards = lambda *_: columns.clone()
    owner = trainer(f"trl.trainer.{config.lower()}_trainer", f"{config}Trainer")
    return owner._generate_and_score_completions(stub, [{"prompt": "p"} for _ in columns])


def grpo_advantages(rewards: Tensor, group_size: int, **fields: Any) -> Tensor:
    """Advantages (B,) of `GRPOTrainer` for rewards (B,), or (B, functions) with `reward_weights`.

    fields are those of `GRPOConfig`, for example scale_rewards or multi_objective_aggregation.
    """
    result: Tensor = _scored("GRPO", rewards, group_size, fields)["advantages"]
    return result


def rloo_advantages(
    rewards: Tensor,
    group_size: int,
    *,
    old_log_probs: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    **fields: Any,
) -> Tensor:
    """Advantages (B,) of `RLOOTrainer`; with `beta` the sampled KL of each response is taken from its reward first."""
    old = torch.zeros(len(rewards), 1, dtype=rewards.dtype) if old_log_probs is None else old_log_probs
    ref = old if ref_log_probs is None else ref_log_probs
    policies = iter((old, ref))
    result: Tensor = _scored(
        "RLOO",
        rewards,
        group_size,
        fields,
        width=old.shape[1],
        _get_per_token_logps_and_entropies=lambda *_, **__: (next(policies), None, None),
    )["advantages"]
    return result


def rloo_weights(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, **fields: Any) -> Tensor:
    """Minus the derivative of `RLOOTrainer._compute_loss` in log π of each token, times the number of responses."""
    owner = trainer("trl.trainer.rloo_trainer", "RLOOTrainer")
    leaf = log_probs.detach().clone().requires_grad_()
    stub = _stub("RLOO", fields)
    stub._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, torch.zeros_like(leaf), None)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    loss = owner._compute_loss(
        stub,
        None,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": mask.to(leaf),
            "old_logps": (old_log_probs * mask).sum(-1),
            "advantages": advantages,
        },
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    return -gradient * len(mask)
