"""The loss of every objective as policy losses of verl.

The weight of a token is measured, not derived again: w = −∂(Σ ℓ)/∂log π_y by autograd on a leaf, with
ℓ = objective.loss(log_probs, batch) on verl's own log-probs. What verl gets back has the value of ℓ and the gradient −w
and is aggregated by verl's `agg_loss`, so that `loss_agg_mode`, the number of ranks and the tokens of the minibatch act
as verl documents them:

    ℓ − w·(log π_y − sg(log π_y))

Rollout correction of verl (`rollout_is_weights`) multiplies it, as in verl's own losses.

verl takes unweighted means of a loss's numbers over micro batches and ranks. Shares of tokens are therefore given as
two numbers each, whose quotient after any such mean is the share among all tokens of a minibatch; the names contain
neither max nor min, which verl would take for an instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss, register_policy_loss
from verl.utils import tensordict_utils as tu
from verl.workers.config import PolicyLossConfig

from ....errors import UsageError
from ....objectives import Objective, TokenBatch, kl_baseline_of
from .. import microbatch
from .estimators import claim, is_of_verl, response_rewards
from .objective_settings import LOSS_SIDE, Named, Settings, losses_besides, read_settings

__all__ = [
    "FROM_MICRO_BATCH",
    "LOSSES",
    "WHOLE_MINIBATCH",
    "ObjectiveLossConfig",
    "policy_loss",
    "read_from_micro_batch",
    "token_batch",
]

FROM_MICRO_BATCH = {  # what a loss needs beyond verl's arguments, and the field of the micro batch that has it
    "rewards": "rm_scores",
    "accuracy": "returns",
    "ref_log_probs": "ref_log_prob",
    "rollout_log_probs": "rollout_log_probs",
    "entropy": "entropy",
    "kl_baseline": "ref_log_prob",
}
WHOLE_MINIBATCH = ("selection", "kl_baseline")  # made of all tokens of a minibatch
_WHERE_FROM = {
    "rm_scores": "a reward function",
    "returns": "an estimator of this project",
    "ref_log_prob": "actor_rollout_ref.actor.use_kl_loss=True",
    "rollout_log_probs": "actor_rollout_ref.rollout.calculate_log_probs=True",
    "entropy": "algorithm.rollout_correction.bypass_mode=False",
}


@dataclass
class ObjectiveLossConfig(PolicyLossConfig):
    """verl's settings of a policy loss, with parameters of an objective.

    Name it where the loss has parameters of its own:
    `actor_rollout_ref.actor.policy_loss._target_=analysis.engines.verl.ObjectiveLossConfig`.

    Attributes:
        rlvr_parameters: parameters that the loss reads, such as clip_low.
        rlvr_threshold: a reward above it counts as 1 in losses that read rewards.
    """

    rlvr_parameters: dict[str, Any] = field(default_factory=dict)
    rlvr_threshold: float | None = None


def policy_loss(named: Named) -> Callable[..., tuple[Tensor, dict[str, Any]]]:
    """The loss of an objective as a function that verl can register.

    Args:
        named: The objective under its name in verl.

    Returns:
        (old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights) -> the loss, a
        scalar with its graph, and numbers for verl's logs.
    """

    made: list[tuple[Settings, Objective]] = []  # of the last settings: a file of the user's runs once

    def loss(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        real = response_mask.bool()
        settings = read_settings(config.policy_loss, LOSS_SIDE)
        if not made or made[0][0] != settings:
            made[:] = [(settings, named.for_loss(settings))]
        objective = made[0][1]
        batch = token_batch(
            objective, log_prob, old_log_prob, advantages, real, config=config, threshold=settings.threshold
        )
        with torch.enable_grad():
            leaf = batch.log_probs.clone().requires_grad_()
            losses = objective.loss(leaf, batch).masked_fill(~real, 0)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        step = (log_prob.to(gradient.dtype) - log_prob.detach()).masked_fill(~real, 0)
        surrogate = losses.detach() + gradient * step
        if rollout_is_weights is not None:
            surrogate = surrogate * rollout_is_weights
        pg_loss = agg_loss(
            loss_mat=surrogate, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info
        )
        clip = objective.weights(batch).clip.masked_fill(~real, 0)
        microbatch.report_clips(clip)
        counts = torch.stack([real.sum(), (clip < 0).sum(), (clip > 0).sum()])
        tokens, low, high, total = torch.cat([counts.to(losses.dtype), losses.detach().sum()[None]]).tolist()
        return pg_loss, {
            "actor/objective_tokens": tokens,
            "actor/objective_tokens_clipped_low": low,
            "actor/objective_tokens_clipped_high": high,
            "actor/objective_loss_of_tokens": total,
        }

    loss.__name__ = loss.__qualname__ = named.name
    loss.__doc__ = f"Loss of {named.objective}: w = {named.entry.weight}."
    return loss


def token_batch(
    objective: Objective,
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    real: Tensor,
    *,
    config: Any,
    threshold: float | None = None,
) -> TokenBatch:
    """What an objective reads of a micro batch of verl, with what it chooses over the minibatch.

    Args:
        objective: The objective.
        log_prob: (B, T) log π_y in nats; as float64 where it is so, else as float32.
        old_log_prob: (B, T), of the policy that ρ refers to.
        advantages: (B, T).
        real: Bool (B, T), tokens of the policy.
        config: verl's ActorConfig, whose `global_batch_info` says how large the minibatch is.
        threshold: A reward above it counts as 1.

    Raises:
        UsageError: The objective reads what no current micro batch gives, or all tokens of a minibatch where the micro
            batch is a part of one.
    """
    dtype = torch.float64 if log_prob.dtype == torch.float64 else torch.float32

    def of_tokens(values: Tensor) -> Tensor:
        return values.detach().to(dtype).masked_fill(~real, 0)

    current = of_tokens(log_prob)
    more: dict[str, Tensor] = {}
    read = read_from_micro_batch(objective)
    if set(read) & set(WHOLE_MINIBATCH):
        _check_whole(objective, len(log_prob), config)
    data = _current(objective) if read else None
    for name in read:
        if name == "selection":
            continue
        assert data is not None
        values = _padded(objective, data, FROM_MICRO_BATCH[name], real)
        if name == "rewards":
            remedy = f"add +{LOSS_SIDE.key}.rlvr_threshold=0.5, as algorithm.rlvr_threshold"
            more[name] = response_rewards(objective, values, real.any(1), threshold, remedy).to(dtype)
        elif name == "accuracy":
            more[name] = values[:, 0].to(dtype)
        elif name == "kl_baseline":
            more[name] = _kl_baseline(of_tokens(old_log_prob), of_tokens(values), real)
        else:
            more[name] = of_tokens(values)
    batch = TokenBatch(current, of_tokens(old_log_prob), of_tokens(advantages), real, **more)
    if objective.entry.selects is None:
        return batch
    assert data is not None
    return objective.prepare(batch, torch.Generator().manual_seed(_seed(config, data)))


def read_from_micro_batch(objective: Objective) -> list[str]:
    """The fields of `TokenBatch` that a loss reads and that verl hands to no policy loss.

    Args:
        objective: With the values of its parameters.

    Example:
        >>> from analysis.objectives import get
        >>> read_from_micro_batch(get("nft")), read_from_micro_batch(get("grpo"))
        (['accuracy'], [])
    """
    needs = {*objective.needs(), *(("entropy",) if objective.entry.selects == "top_entropy" else ())}
    return [name for name in (*FROM_MICRO_BATCH, "selection") if name in needs]


def _current(objective: Objective) -> TensorDict:
    data = microbatch.current()
    if data is None:
        raise UsageError(
            f"loss_mode: {objective.name} reads more of a micro batch than verl hands to a policy loss, and expected "
            "the engine of this project, which has it, got another; set VERL_ENGINE_VENDOR=dynamics in the workers' "
            "environment"
        )
    return data


def _padded(objective: Objective, data: TensorDict, field_name: str, real: Tensor) -> Tensor:
    """A field of the micro batch, of the mask's shape."""
    values = data.get(field_name, None)
    if values is None:
        raise UsageError(
            f"loss_mode: {objective.name} reads {field_name} of each token, got a micro batch without; it comes from "
            f"{_WHERE_FROM[field_name]}"
        )
    padded: Tensor = values.to_padded_tensor(0.0) if values.is_nested else values
    width = real.shape[1] - padded.shape[1]
    return torch.nn.functional.pad(padded, (0, width)).to(real.device)


def _check_whole(objective: Objective, rows: int, config: Any) -> None:
    held = config.global_batch_info
    ranks, size = held.get("dp_size", 1), held.get("global_batch_size", None)
    if ranks != 1 or (size is not None and rows != size):
        raise UsageError(
            f"loss_mode: {objective.name} reads all tokens of a minibatch, and expected a micro batch of its "
            f"{size} rows on one rank, got {rows} rows on {ranks}; set actor.ppo_micro_batch_size_per_gpu to "
            "ppo_mini_batch_size · rollout.n, use_dynamic_bsz=False, and train on one GPU"
        )


def _kl_baseline(old: Tensor, reference: Tensor, real: Tensor) -> Tensor:
    """z of KTO over the rows that hold tokens, for every row."""
    rows = real.any(1)
    if not bool(rows.any()):
        return torch.zeros(len(real), dtype=old.dtype, device=old.device)
    return kl_baseline_of(old[rows], reference[rows], real[rows])[:1].expand(len(real))


def _seed(config: Any, data: TensorDict) -> int:
    """Of the tokens that clip-cov draws: another one in each step, the same in a resumed run."""
    steps = tu.get(data, "global_steps", [0])
    step = int(steps[0]) if isinstance(steps, list | Tensor) else int(steps)
    return int(config.get("data_loader_seed", 42)) + 1_000_003 * step


def _register() -> dict[str, Named]:
    of_verl = [name for name, function in POLICY_LOSS_REGISTRY.items() if is_of_verl(function)]
    table = losses_besides(of_verl)
    for name in table:
        claim("policy loss", name, POLICY_LOSS_REGISTRY)
    for name, named in table.items():
        register_policy_loss(name)(policy_loss(named))
    return table


LOSSES = _register()  # by their names in verl
