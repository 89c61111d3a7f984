"""What is wrong with the objective of a composed configuration of verl, before anything is started.

verl itself raises for an unknown estimator only after the rollouts of the first step, and never for a setting that
nothing reads. `problems` looks at the estimator, the policy loss, their settings and the combination of the two.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from verl.workers.config import ActorConfig, PolicyLossConfig

from toy_models.messages import nearest

from ....errors import UsageError
from ....objectives import Objective, ResponseBatch, names
from . import dropped_rows_sampler, estimators, policy_losses
from .estimators import ESTIMATORS, kl_in_reward
from .objective_settings import (
    ADVANTAGE_SIDE,
    FAMILIES,
    FORMS,
    LOSS_SIDE,
    VERL_PREFIX,
    Named,
    Settings,
    Side,
    family,
    lacks,
    read_settings,
    spelled,
)
from .policy_losses import LOSSES, WHOLE_MINIBATCH, read_from_micro_batch

__all__ = ["listing", "problems", "read_by_advantages"]

_ACTOR = "actor_rollout_ref.actor"
_VENDOR = "VERL_ENGINE_VENDOR"
_OF_VERLS_LOSS = ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg")
_OF_VERLS_ESTIMATORS = ("gamma", "lam", "norm_adv_by_std_in_grpo")
_SAME_LOSS = {"gmpo": "geo_mean", "dro-token": "dro"}  # objectives that verl has as a loss of another name
_CONFIG_CLASS = "analysis.engines.verl.ObjectiveLossConfig"


def listing() -> list[tuple[str, str, str]]:
    """The names that this package adds to verl.

    Returns:
        Rows of (kind, name in verl, objective in docs/objectives.md); kind is "estimator" or "policy loss".

    Example:
        >>> ("estimator", "psr", "psr-ratio") in listing()
        True
    """
    kinds = (("estimator", ESTIMATORS), ("policy loss", LOSSES))
    return [(kind, name, named.objective) for kind, table in kinds for name, named in table.items()]


def problems(config: DictConfig) -> list[str]:
    """What is wrong with estimator, policy loss and the settings of an objective; empty where nothing is.

    Args:
        config: A composed configuration of `verl.trainer.main_ppo`. Plug-ins that it names have been imported.

    Returns:
        One message for each fault, in the order in which a user would mend them.
    """
    return list(_problems(config))


def _problems(config: DictConfig) -> Iterator[str]:
    name, mode = str(config.algorithm.adv_estimator), str(_policy_loss(config).get("loss_mode", "vanilla"))
    estimator, loss = ESTIMATORS.get(name), LOSSES.get(mode)
    yield from _unknown(
        "algorithm.adv_estimator", name, estimator, ADV_ESTIMATOR_REGISTRY, estimators.__name__, "an estimator"
    )
    yield from _unknown(
        f"{LOSS_SIDE.key}.loss_mode", mode, loss, POLICY_LOSS_REGISTRY, policy_losses.__name__, "a policy loss"
    )
    advantages = yield from _made(estimator, config.algorithm, ADVANTAGE_SIDE, f"adv_estimator={name}")
    losses = yield from _made(loss, _policy_loss(config), LOSS_SIDE, f"loss_mode={mode}")
    if estimator is not None and advantages is not None:
        yield from _of_estimator(estimator, advantages, config)
    if loss is not None and losses is not None:
        yield from _of_loss(loss, losses, config)
    if mode in POLICY_LOSS_REGISTRY and name in ADV_ESTIMATOR_REGISTRY:
        yield from _of_both(name, estimator, mode, loss)
    if advantages is not None and losses is not None:
        yield from _disagreement(losses, config)
    yield from dropped_rows_sampler.problems(config)


def _policy_loss(config: DictConfig) -> Any:
    return config.actor_rollout_ref.actor.policy_loss


# -- names -------------------------------------------------------------------------------------------------------------


def _unknown(
    key: str, name: str, named: Named | None, registry: Mapping[str, Any], module: str, what: str
) -> Iterator[str]:
    held = registry.get(name)
    if named is not None:
        if getattr(held, "__module__", None) != module:
            holder = "nobody" if held is None else getattr(held, "__module__", "another module")
            yield (
                f"{key}: expected {name} to be that of this project, got one that {holder} registered; load one of "
                "the two plug-ins"
            )
    elif held is None:
        yield f"{key}: expected {what} that verl knows, got {name!r}; {_hint(name, registry)}"


def _hint(name: str, registry: Mapping[str, Any]) -> str:
    spellings = {spelled(known): known for known in names()}
    written = spelled(name.removeprefix(VERL_PREFIX))
    objective = spellings.get(written)
    if objective is not None and (reason := lacks(objective)) is not None:
        return f"{objective} {reason}"
    if written != name and written in registry:
        return f"write {written}"
    if written in (spelled(stem) for stem in FAMILIES) and f"{written}_{FORMS[0]}" in registry:
        return f"choose {', '.join(f'{written}_{form}' for form in FORMS)}, which are different updates"
    return nearest(name, registry)


# -- each side ---------------------------------------------------------------------------------------------------------


def _made(named: Named | None, node: Any, side: Side, setting: str) -> Iterator[str] | Any:
    """Yields what is wrong with the settings of one side; its value is the objective, None where there is none."""
    try:
        settings = read_settings(node, side)
        if named is None:
            held = [key for key in side.settings if node.get(key, None) is not None]
            if held:
                yield (
                    f"{side.key}.{held[0]}: expected an objective of this project beside it, got {setting}, which "
                    "does not read it; leave it out"
                )
            return None
        objective = named.for_advantages(settings) if side is ADVANTAGE_SIDE else named.for_loss(settings)
    except UsageError as error:
        yield str(error)
        return None
    for parameter in _unread(objective, settings, side):
        key = "lambda" if parameter == "lambda_" else parameter
        elsewhere = (
            f"set it as +{LOSS_SIDE.key}.rlvr_parameters.{key}, with {LOSS_SIDE.key}._target_={_CONFIG_CLASS}"
            if side is ADVANTAGE_SIDE
            else f"set it as +algorithm.rlvr_{'' if key == 'lambda' else 'parameters.'}{key}"
        )
        reader = "advantages" if side is ADVANTAGE_SIDE else "loss"
        yield (
            f"{side.key}.rlvr_parameters.{key}: expected a parameter that the {reader} of {objective.name} read, got "
            f"one that they do not; {elsewhere}"
        )
    return objective


def _of_estimator(named: Named, objective: Objective, config: DictConfig) -> Iterator[str]:
    if config.algorithm.get("use_kl_in_reward", False):
        yield kl_in_reward(named.name)
    defaults = {field.name: field.default for field in dataclasses.fields(AlgoConfig)}
    for key in _OF_VERLS_ESTIMATORS:
        if config.algorithm.get(key, defaults[key]) != defaults[key]:
            yield (
                f"algorithm.{key}: expected verl's default ({defaults[key]}), since the advantages are those of "
                f"{named.objective}, which do not read it, got {config.algorithm[key]}; leave it unset"
            )
    try:
        objective.check_group_size(int(config.actor_rollout_ref.rollout.n))
    except UsageError as error:
        yield (
            str(error)
            .replace("rollout.group_size", "actor_rollout_ref.rollout.n")
            .replace("objective.", f"{ADVANTAGE_SIDE.key}.rlvr_parameters.")
        )


def _of_loss(named: Named, objective: Objective, config: DictConfig) -> Iterator[str]:
    node, actor, rollout = _policy_loss(config), config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    given = [key for key in LOSS_SIDE.settings if node.get(key, None) is not None]
    if given and node.get("_target_", None) != _CONFIG_CLASS:
        yield (
            f"{LOSS_SIDE.key}._target_: expected {_CONFIG_CLASS} beside {given[0]}, which verl's own class refuses, "
            f"got {node.get('_target_', None)}; set it"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(ActorConfig)}
    for key in _OF_VERLS_LOSS:
        if actor.get(key, defaults[key]) not in (None, defaults[key]):
            yield _of_another_loss(f"{_ACTOR}.{key}", actor[key], defaults[key], named)
    for option in dataclasses.fields(PolicyLossConfig):
        if isinstance(option.default, int | float) and node.get(option.name, option.default) != option.default:
            yield _of_another_loss(f"{LOSS_SIDE.key}.{option.name}", node[option.name], option.default, named)
    read = read_from_micro_batch(objective)
    if read and not _has_engine(config):
        yield (
            f"{LOSS_SIDE.key}.loss_mode: {named.name} reads {', '.join(read)}, which verl hands to no policy loss, and "
            f"expected the engine of this project, got verl's; set {_VENDOR}=dynamics, as "
            f"+ray_kwargs.ray_init.runtime_env.env_vars.{_VENDOR}=dynamics"
        )
    if "ref_log_probs" in read and not actor.get("use_kl_loss", False):
        yield (
            f"{_ACTOR}.use_kl_loss: expected True, since {named.name} reads the log-probs of a reference policy, which "
            "verl computes then alone, got False; set it, with kl_loss_coef=0 for no KL beside it"
        )
    if "rollout_log_probs" in read and not rollout.get("calculate_log_probs", False):
        yield (
            f"actor_rollout_ref.rollout.calculate_log_probs: expected True, since {named.name} corrects for the "
            "log-probs of the engine that samples, got False; set it"
        )
    if set(read) & set(WHOLE_MINIBATCH):
        yield from _of_whole_minibatch(named, config)
    if "entropy" in read and (
        actor.ppo_mini_batch_size != config.data.train_batch_size or actor.get("ppo_epochs", 1) != 1
    ):
        yield (
            f"{LOSS_SIDE.key}.loss_mode: {named.name} chooses tokens by the entropy of the policy that sampled, and "
            "expected one update of a batch, so that it is that of the policy itself, got several; set "
            "actor.ppo_mini_batch_size to data.train_batch_size and ppo_epochs to 1"
        )


def _of_another_loss(key: str, value: Any, default: Any, named: Named) -> str:
    return (
        f"{key}: expected verl's default ({default}), since the loss is that of {named.name}, which does not read it, "
        f"got {value}; leave it unset and set {LOSS_SIDE.key}.rlvr_parameters of the objective"
    )


def _of_whole_minibatch(named: Named, config: DictConfig) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    ranks = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    rows = int(actor.ppo_mini_batch_size) * int(config.actor_rollout_ref.rollout.n)
    micro, dynamic = actor.ppo_micro_batch_size_per_gpu, bool(actor.use_dynamic_bsz)
    if ranks != 1 or dynamic or micro != rows:
        got = "use_dynamic_bsz" if dynamic else f"{micro} rows"
        yield (
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu: {named.name} reads all tokens of a minibatch, so it expects one "
            f"micro batch of its {rows} rows on one GPU, got {got} on {ranks}; set it to {rows}, use_dynamic_bsz to "
            "False and train on one GPU, or choose another objective"
        )


def _has_engine(config: DictConfig) -> bool:
    of_workers = OmegaConf.select(config, f"ray_kwargs.ray_init.runtime_env.env_vars.{_VENDOR}")
    return (os.environ.get(_VENDOR) if of_workers is None else of_workers) == "dynamics"


# -- both together -----------------------------------------------------------------------------------------------------


def _of_both(name: str, estimator: Named | None, mode: str, loss: Named | None) -> Iterator[str]:
    if estimator is not None and loss is not None:
        if family(estimator.objective) != family(loss.objective):
            yield (
                f"{LOSS_SIDE.key}.loss_mode: expected a loss of {family(estimator.objective)}, whose advantages "
                f"adv_estimator={name} computes, got {mode}; choose {_losses_of(estimator.objective)}"
            )
    elif estimator is None and loss is not None:
        wanted = spelled(loss.objective)
        if name != wanted:
            known = [other for other, named in ESTIMATORS.items() if named.objective == loss.objective]
            stem = spelled(family(loss.objective))
            yield (
                f"algorithm.adv_estimator: expected the advantages of {loss.objective}, whose loss loss_mode={mode} "
                f"is, got verl's {name}; choose {stem if stem in ESTIMATORS else known[0]}"
            )
    elif estimator is not None and not estimator.entry.is_policy_gradient:
        own = estimator.objective
        if mode not in (spelled(own), _SAME_LOSS.get(own)) or own == "dro":
            yield (
                f"{LOSS_SIDE.key}.loss_mode: expected the loss of {own}, which is more than its advantages, got "
                f"verl's {mode}; choose {_losses_of(own)}"
            )


def _losses_of(objective: str) -> str:
    stem = family(objective)
    return " or ".join(name for name, named in LOSSES.items() if family(named.objective) == stem)


def _disagreement(loss: Objective, config: DictConfig) -> Iterator[str]:
    """Thresholds of the two sides that differ, for a loss that reads rewards too."""
    if "rewards" not in loss.needs():
        return
    ours = read_settings(config.algorithm, ADVANTAGE_SIDE).threshold
    theirs = read_settings(_policy_loss(config), LOSS_SIDE).threshold
    if ours != theirs:
        yield (
            f"{LOSS_SIDE.key}.rlvr_threshold: expected the {ours} of {ADVANTAGE_SIDE.key}.rlvr_threshold, since the "
            f"loss of {loss.name} reads rewards too, got {theirs}; set both"
        )


# -- which parameters are read -----------------------------------------------------------------------------------------


class _Watched(dict[str, Any]):
    """Parameters that remember which of them were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def _unread(objective: Objective, settings: Settings, side: Side) -> list[str]:
    """Parameters that were set on a side that does not read them."""
    read = read_by_advantages(objective)
    given = [name for name, value in settings.parameters.items() if value is not None]
    return [name for name in given if (name in read) == (side is LOSS_SIDE)]


def read_by_advantages(objective: Objective) -> set[str]:
    """The parameters that the advantages of an objective read, found by computing some; its loss reads the others.

    Args:
        objective: The objective, with the values of its parameters.

    Example:
        >>> from analysis.objectives import get
        >>> sorted(read_by_advantages(get("w-reinforce", form="ratio", lambda_=0.1)) & {"lambda_", "clip_low"})
        ['lambda_']
    """
    watched = _Watched(objective.parameters)
    size = 2 * int(objective.parameters.get("k") or 1)
    rewards = torch.tensor([1.0, 0.0]).repeat(size)
    part = ResponseBatch(rewards, size, lengths=torch.ones(2 * size, dtype=torch.long))
    dataclasses.replace(objective, parameters=watched).advantages_of([part])
    return watched.read
