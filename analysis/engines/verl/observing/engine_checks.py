"""What the observing engine refuses, each with one message that says what to do instead.

`check_engine` runs when the workers start, before any rollout; `check_batch` sees what no worker is told before the
first minibatch. `python -m analysis.engines.verl check` finds all of it before Ray starts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from ....errors import UsageError
from ....records.folders import RUN_FILE, read_run_json
from .facts import ENGINE
from .record_settings import ObservedEngineConfig

__all__ = ["check_batch", "check_critic", "check_engine"]

_STRATEGIES = ("fsdp", "fsdp2")
_CONFIG = "actor_rollout_ref.actor.fsdp_config"


def check_engine(model_config: Any, engine_config: Any, *, other_observer: bool) -> None:
    """UsageError for settings of a worker with which nothing can be recorded.

    Args:
        model_config: verl's HFModelConfig.
        engine_config: verl's configuration of the engine.
        other_observer: whether another engine of this process is observed.
    """
    if not isinstance(engine_config, ObservedEngineConfig):
        raise UsageError(
            f"{_CONFIG}: expected an ObservedEngineConfig, which says what is recorded, got a "
            f"{type(engine_config).__name__}; set {_CONFIG}._target_=analysis.engines.verl.ObservedEngineConfig and "
            f"+{_CONFIG}.record.out=…, or train without VERL_ENGINE_VENDOR=dynamics"
        )
    if other_observer:
        raise UsageError(
            "engine: expected one engine that is observed in a process, got a second; two actors in one process "
            "would write one folder. Observe one of them"
        )
    if engine_config.strategy not in _STRATEGIES:
        raise UsageError(
            f"{_CONFIG}.strategy: expected {' or '.join(_STRATEGIES)}, got {engine_config.strategy}; other strategies "
            "are not observed"
        )
    if engine_config.ulysses_sequence_parallel_size > 1:
        raise UsageError(
            f"{_CONFIG}.ulysses_sequence_parallel_size: expected 1, got "
            f"{engine_config.ulysses_sequence_parallel_size}; a rank then holds parts of responses, which are not "
            "observed"
        )
    if model_config.lora_rank > 0 and engine_config.use_fused_kernels:
        raise UsageError(
            "actor_rollout_ref.model.use_fused_kernels: expected False with LoRA, got True; verl's fused kernels "
            "pass over adapters of the head"
        )
    _check_folder(engine_config)


def check_critic(engine_config: Any) -> None:
    """UsageError for a critic whose configuration asks for records.

    Args:
        engine_config: verl's configuration of the critic's engine.
    """
    if isinstance(engine_config, ObservedEngineConfig):
        raise UsageError(
            "critic.fsdp._target_: expected verl's FSDPEngineConfig, got an ObservedEngineConfig; value models are "
            "not observed. Leave _target_ and record out there"
        )


def _check_folder(engine_config: ObservedEngineConfig) -> None:
    out = engine_config.settings().out
    if (out / RUN_FILE).exists() and (engine := read_run_json(out).get("engine")) != ENGINE:
        raise UsageError(
            f"{_CONFIG}.record.out: expected a new folder, got {out}, which holds a run of {engine}; choose another"
        )


def check_batch(data: TensorDict, loss_function: Callable[..., Any]) -> None:
    """UsageError for a minibatch whose loss does not follow from the policy's log-probs alone.

    Args:
        data: the minibatch.
        loss_function: verl's loss.
    """
    inner = loss_function.func if isinstance(loss_function, partial) else loss_function
    distilled = [key for key in ("distillation_use_topk", "distillation_only") if tu.get_non_tensor_data(data, key, 0)]
    if distilled or "distillation" in getattr(inner, "__name__", ""):
        raise UsageError(
            "distillation: expected a loss of the policy's own log-probs, got distillation from a teacher, which "
            "depends on other tokens too; set distillation.enabled=False"
        )
