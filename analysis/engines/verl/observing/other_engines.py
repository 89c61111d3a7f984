"""Engines of verl that are not observed, refused when the workers start.

`VERL_ENGINE_VENDOR=dynamics` asks for records. Where verl has no engine of that vendor for a strategy it takes its own
without a word, and the run would train without them.
"""

from __future__ import annotations

from typing import Any

from verl.workers.engine import BaseEngine, EngineRegistry

from ....errors import UsageError
from .observed_engine import VENDOR

__all__ = ["OTHER_STRATEGIES", "UnobservedEngine"]

OTHER_STRATEGIES = ("megatron", "veomni", "torchtitan", "automodel", "fsdp_turbo")  # all that verl has


@EngineRegistry.register(
    model_type="language_model", backend=list(OTHER_STRATEGIES), device=["cuda", "npu"], vendor=VENDOR
)
class UnobservedEngine(BaseEngine):  # type: ignore[misc, unused-ignore]
    """What verl finds for a strategy that is not observed.

    Raises:
        UsageError: always.
    """

    def __init__(self, model_config: Any, engine_config: Any, optimizer_config: Any, checkpoint_config: Any) -> None:
        raise UsageError(
            "actor_rollout_ref.actor.strategy: expected fsdp or fsdp2, whose engine is observed, with "
            f"VERL_ENGINE_VENDOR={VENDOR}, got {engine_config.strategy}; set it, or leave the variable out to train "
            "without records"
        )
