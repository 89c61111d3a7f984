"""What cannot train, said before Ray starts: verl itself raises on much of it only after the first rollouts, or never.

Each check is a function from the composed configuration to messages, one for each setting that is wrong.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from ....errors import UsageError
from ....objectives import ResponseBatch
from ..objectives import objective_names
from ..objectives.estimators import ESTIMATORS
from ..objectives.objective_settings import ADVANTAGE_SIDE, read_settings
from ..objectives.policy_losses import LOSSES
from .installation import unmet_requirements
from .loading import VENDOR, VENDOR_KEY, Route, is_multi_node, loading_problems, loading_route
from .paths_of_a_run import missing_files, record_folder_problems
from .unread_keys import unread_keys

__all__ = ["Checked", "check", "is_observed", "is_ours", "problems"]

ENGINE = "analysis.engines.verl.ObservedEngineConfig"
_ACTOR = "actor_rollout_ref.actor"
_CLIP = 0.2  # verl's default of the three clip ratios
_HARMLESS_DUAL_CLIP = 1000.0  # the ratio of a token does not come near it


@dataclass(frozen=True)
class Checked:
    """A configuration that can train.

    Attributes:
        route: How verl's processes load this package.
        notes: What a user should know and need not change.
    """

    route: Route
    notes: tuple[str, ...]


def check(config: DictConfig, *, files: bool = True, environment: Mapping[str, str] = os.environ) -> Checked:
    """Check a composed configuration without starting Ray or reading a model.

    Args:
        config: What `compose` returns.
        files: Whether this is the machine that trains: files and folders are looked at.
        environment: Variables of the process that will train.

    Raises:
        UsageError: Settings that cannot train; the message lists all of them.
    """
    messages = problems(config, files=files, environment=environment)
    if messages:
        count = "1 setting" if len(messages) == 1 else f"{len(messages)} settings"
        raise UsageError("\n".join([f"expected a configuration that can train, got {count} to change:", *messages]))
    route = loading_route(config, environment)
    return Checked(route, tuple(_notes(route)))


def problems(config: DictConfig, *, files: bool = True, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The messages of `check`, one for each setting that is wrong."""
    checks: list[Callable[[], list[str]]] = [
        unmet_requirements,
        lambda: _trainer(config),
        lambda: loading_problems(config, environment, needed=is_ours(config) or is_observed(config)),
        lambda: objective_names.problems(config),  # after what the configuration loads, which may add names
        lambda: _observing(config, environment),
        lambda: _clipping(config),
        lambda: _critic(config),
        lambda: unread_keys(config) or _verls_own(config),  # verl names such a key less clearly, and nothing else then
    ]
    if files:
        checks += [lambda: missing_files(config), lambda: record_folder_problems(config)]
    messages = [message for function in checks for message in function()]
    return list(dict.fromkeys(messages))


def is_observed(config: DictConfig) -> bool:
    """Whether the configuration asks for records."""
    node = OmegaConf.select(config, f"{_ACTOR}.fsdp_config", default=None) or {}
    return "record" in node or node.get("_target_") == ENGINE


def is_ours(config: DictConfig) -> bool:
    """Whether the advantages or the loss are those of this package."""
    return config.algorithm.adv_estimator in ESTIMATORS or _loss_mode(config) in LOSSES


def _loss_mode(config: DictConfig) -> str:
    return str(config.actor_rollout_ref.actor.policy_loss.loss_mode)


def _trainer(config: DictConfig) -> list[str]:
    trainer = config.trainer
    messages = []
    if not trainer.use_v1:
        messages.append("trainer.use_v1: expected True, the trainer that verl develops, got False; leave it out")
    if trainer.v1.trainer_mode != "sync":
        messages.append(
            f"trainer.v1.trainer_mode: expected sync, the mode that this package was tested with, got "
            f"{trainer.v1.trainer_mode}; leave it out"
        )
    return messages


def _observing(config: DictConfig, environment: Mapping[str, str]) -> list[str]:
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    of_config = OmegaConf.select(config, VENDOR_KEY, default=None)
    vendor = of_config or environment.get("VERL_ENGINE_VENDOR")
    if not is_observed(config):
        if vendor != VENDOR:
            return []
        return [
            f"VERL_ENGINE_VENDOR: expected records beside the observing engine, got none; add {_ACTOR}.fsdp_config."
            f"_target_={ENGINE} and +{_ACTOR}.fsdp_config.record.out=DIR, or leave the variable out"
        ]
    messages = []
    node = OmegaConf.select(config, f"{_ACTOR}.fsdp_config", default=None) or {}
    if node.get("_target_") != ENGINE:
        messages.append(
            f"{_ACTOR}.fsdp_config._target_: expected {ENGINE} beside record, got {node.get('_target_')}; set it, or "
            "verl refuses the key record"
        )
    if vendor != VENDOR:
        messages.append(
            f"VERL_ENGINE_VENDOR: expected {VENDOR}, which makes verl choose the observing engine, got {vendor}; add "
            f"+{VENDOR_KEY}={VENDOR}"
        )
    elif of_config is None and is_multi_node(config, environment):
        messages.append(
            f"VERL_ENGINE_VENDOR: expected it in the environment of the workers of all nodes, got it in that of this "
            f"process alone; add +{VENDOR_KEY}={VENDOR}"
        )
    if actor.strategy not in ("fsdp", "fsdp2"):
        messages.append(
            f"{_ACTOR}.strategy: expected fsdp or fsdp2, whose engine is observed, got {actor.strategy}; set it, or "
            "leave record out"
        )
    ulysses = max(actor.get("ulysses_sequence_parallel_size", 1), node.get("ulysses_sequence_parallel_size", 1))
    if ulysses > 1:
        messages.append(
            f"{_ACTOR}.ulysses_sequence_parallel_size: expected 1, since a rank with a part of each response is not "
            f"observed, got {ulysses}; leave it out, and lower ppo_max_token_len_per_gpu if memory is short"
        )
    if model.get("use_fused_kernels", False) and actor.get("calculate_sum_pi_squared", False):
        messages.append(
            f"{_ACTOR}.calculate_sum_pi_squared: expected False beside actor_rollout_ref.model.use_fused_kernels, got "
            "True, which verl refuses in the first update; leave one of them out"
        )
    if model.get("use_fused_kernels", False) and model.get("lora_rank", 0) > 0:
        messages.append(
            "actor_rollout_ref.model.use_fused_kernels: expected False with LoRA, got True; verl's fused kernels pass "
            "over adapters of the head"
        )
    if is_distillation_enabled(config.get("distillation")):
        messages.append(
            "distillation.enabled: expected False, since a loss against a teacher depends on other tokens than those "
            "that are recorded, got True; leave it out, or leave record out"
        )
    return messages


def _clipping(config: DictConfig) -> list[str]:
    """Settings of the clip that verl passes over, and one that it applies where it is not expected."""
    actor = config.actor_rollout_ref.actor
    messages = []
    grad_clip, applied = actor.get("grad_clip", 1.0), actor.optim.get("clip_grad", 1.0)
    if grad_clip not in (1.0, applied):
        messages.append(
            f"{_ACTOR}.grad_clip: expected it unset, since verl reads {_ACTOR}.optim.clip_grad, which is {applied}, "
            f"got {grad_clip}; set {_ACTOR}.optim.clip_grad={grad_clip}"
        )
    ratios = (actor.clip_ratio_low, actor.clip_ratio_high)
    if actor.clip_ratio != _CLIP and actor.clip_ratio not in ratios:
        messages.append(
            f"{_ACTOR}.clip_ratio: expected it equal to clip_ratio_low and clip_ratio_high, which are what verl reads "
            f"({ratios[0]} and {ratios[1]}), got {actor.clip_ratio}; set all three"
        )
    if _loss_mode(config) == "vanilla" and actor.clip_ratio_c < _HARMLESS_DUAL_CLIP and _punishes(config):
        messages.append(
            f"{_ACTOR}.clip_ratio_c: expected no dual clip, which {config.algorithm.adv_estimator} does not have, got "
            f"a bound of {actor.clip_ratio_c} on the ratio of wrong responses; set {_ACTOR}.clip_ratio_c=1e6"
        )
    return messages


def _punishes(config: DictConfig) -> bool:
    """Whether the objective of this package, if it is one, has negative advantages: a dual clip acts on these alone."""
    named = ESTIMATORS.get(config.algorithm.adv_estimator)
    if named is None:
        return False
    try:
        objective = named.for_advantages(read_settings(config.algorithm, ADVANTAGE_SIDE))
    except UsageError:
        return False  # `objective_names` has a message
    size = 2 * int(objective.parameters.get("k") or 1)
    rewards = torch.tensor([1.0, 0.0]).repeat(size)
    part = ResponseBatch(rewards, size, lengths=torch.ones(2 * size, dtype=torch.long))
    return any(bool((advantages < 0).any()) for advantages in objective.advantages_of([part]))


def _critic(config: DictConfig) -> list[str]:
    """A value model is trained for generalised advantages alone; by default it is another model than the policy."""
    if not _quietly(need_critic, config):
        return []
    policy, critic = config.actor_rollout_ref.model.path, config.critic.model.path
    default = "~/models/deepseek-llm-7b-chat"
    messages = []
    if critic == default and policy != default:
        messages.append(
            f"critic.model.path: expected the model that the value model starts from, got verl's default {default}; "
            f"set critic.model.path={policy}"
        )
    engine = config.critic.get("fsdp", None) or {}
    if "record" in engine or engine.get("_target_") == ENGINE:
        messages.append(
            "critic.fsdp: expected no records, since value models are not observed, got some; leave record and "
            "_target_ out there"
        )
    return messages


def _verls_own(config: DictConfig) -> list[str]:
    """What verl checks when it starts, and the dataclasses that its workers make later."""
    trainer, batch = config.trainer, config.data.train_batch_size
    functions: list[Callable[[], Any]] = [
        lambda: validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=False),
        lambda: omega_conf_to_dataclass(config.actor_rollout_ref.rollout),
    ]
    if _quietly(need_critic, config):
        without_model = config.critic.copy()
        without_model.model = None  # verl would read it, from the Hub too
        functions.append(
            lambda: omega_conf_to_dataclass(without_model).validate(trainer.n_gpus_per_node * trainer.nnodes, batch)
        )
    return [message for function in functions for message in _said(function)]


def _said(function: Callable[[], Any]) -> Iterator[str]:
    try:
        _quietly(function)
    except Exception as error:  # whatever verl raises is the message
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = " ".join(str(cause).split()) or type(cause).__name__
        yield text if isinstance(cause, UsageError) else f"verl: {text}"


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it without what it prints, logs and warns of."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments)
    finally:
        logging.disable(disabled)


def _notes(route: Route) -> Iterator[str]:
    if route is Route.ENTRY_POINT:
        yield (
            "verl loads this package through the entry point verl.plugins, and passes over an error of its import; "
            "add actor_rollout_ref.model.external_lib=analysis.engines.verl to see one"
        )
