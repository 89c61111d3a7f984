"""A configuration in a few lines: what will be trained, by which update, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ....probes.record_spec import RecordSpec
from ....recipes.memory import size_text
from ..objectives.estimators import ESTIMATORS
from ..objectives.policy_losses import LOSSES
from .loading import Route
from .paths_of_a_run import latest_checkpoint, record_out, training_prompts

__all__ = ["overview"]

_ROW_BYTES, _BESIDE_BYTES = 39.4, 3.4  # of a recorded token, and of any token as part of its rollout: measured, in
# docs/results/full_scale.json
_KL_BYTES, _TOP_BYTES = (
    8,
    8,
)  # two columns of a KL, id and probability of each of the most probable tokens: uncompressed


def overview(config: DictConfig, route: Route) -> str:
    """The lines that `check` prints of a configuration that can train.

    Args:
        config: What `compose` returns.
        route: How verl's processes load this package.
    """
    rows = list(_rows(config, route))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _rows(config: DictConfig, route: Route) -> Iterator[tuple[str, str]]:
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    actor = config.actor_rollout_ref.actor
    prompts, responses = config.data.train_batch_size, config.data.train_batch_size * rollout.n
    devices = f"{trainer.nnodes} x {trainer.n_gpus_per_node} {trainer.device}"
    yield "model", f"{config.actor_rollout_ref.model.path}, {actor.strategy} on {devices}"
    yield "data", _data(config)
    yield (
        "rollouts",
        f"{responses} in a step ({prompts} prompts x {rollout.n}) of at most {config.data.max_response_length} tokens, "
        f"T {rollout.temperature}, by {rollout.name}",
    )
    yield "advantage", _advantage(config)
    yield "loss", _loss(config)
    yield "updates", _updates(config)
    yield "records", _records(config)
    yield "loaded by", route.value
    if checkpoint := latest_checkpoint(config):
        yield "resumes", str(checkpoint)


def _data(config: DictConfig) -> str:
    held = config.data.train_files
    text = ", ".join(map(str, held)) if isinstance(held, ListConfig | list) else str(held)
    rows, batch = training_prompts(config), config.data.train_batch_size
    if rows is None:
        return text
    steps = config.trainer.total_training_steps or rows // batch * config.trainer.total_epochs
    return f"{text}: {rows} prompts, {rows // batch} batches in an epoch; {steps} steps"


def _advantage(config: DictConfig) -> str:
    name = str(config.algorithm.adv_estimator)
    named = ESTIMATORS.get(name)
    settings = {key: value for key, value in config.algorithm.items() if str(key).startswith("rlvr_")}
    given = ", ".join(f"{key} = {value}" for key, value in settings.items())
    text = f"{name}, verl's" if named is None else f"{name}: {named.entry.title}"
    return f"{text} ({given})" if given else text


def _loss(config: DictConfig) -> str:
    actor = config.actor_rollout_ref.actor
    mode = str(actor.policy_loss.loss_mode)
    named = LOSSES.get(mode)
    bounds = f"ratio clipped to {1 - actor.clip_ratio_low:.4g} and {1 + actor.clip_ratio_high:.4g}"
    text = f"{mode}: w = {named.entry.weight}" if named is not None else f"{mode}, verl's, {bounds}"
    parts = [text, f"summed by {actor.loss_agg_mode}"]
    if actor.entropy_coeff:
        parts.append(f"entropy bonus {actor.entropy_coeff}")
    if actor.use_kl_loss:
        parts.append(f"KL {actor.kl_loss_coef} ({actor.kl_loss_type}) in the loss")
    if config.algorithm.use_kl_in_reward:
        parts.append(f"KL {config.algorithm.kl_ctrl.kl_coef} ({config.algorithm.kl_penalty}) in the reward")
    return "; ".join(parts)


def _updates(config: DictConfig) -> str:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    count = -(-config.data.train_batch_size // actor.ppo_mini_batch_size) * actor.ppo_epochs
    sampler = OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.name", default=None)
    each = f"{count} in a step, each of {actor.ppo_mini_batch_size * rollout.n} responses"
    return f"{each}; fewer where {sampler} drops rows" if sampler else each


def _records(config: DictConfig) -> str:
    out = record_out(config)
    if out is None:
        return "none; --out DIR records"
    held = OmegaConf.select(config, "actor_rollout_ref.actor.fsdp_config.record", default=None) or {}
    share, top = held.get("tokens", RecordSpec.tokens), held.get("top_k", RecordSpec.top_k)
    return (
        f"{out}: tokens of {share:g} of the prompts, at most {size_text(round(_bytes(config, share, top)))} in a step"
    )


def _bytes(config: DictConfig, share: float, top: int) -> float:
    """Of the tokens of a step, if every response is as long as it may be and rows are updated once an epoch."""
    data: Any = config.data
    tokens = data.train_batch_size * config.actor_rollout_ref.rollout.n * data.max_response_length
    actor = config.actor_rollout_ref.actor
    row = _ROW_BYTES + _TOP_BYTES * top + (_KL_BYTES if actor.use_kl_loss else 0)
    return float(tokens * (_BESIDE_BYTES + actor.ppo_epochs * share * row))
