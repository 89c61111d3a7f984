"""verl's functions, without the packages that only its workers need.

`make test` installs verl alone, without its dependencies, into `.venv/peers`, where no other import finds it: it pins
older versions of packages that this toolkit uses. Its `verl/__init__.py` is not run. Packages that its modules import
and that are not installed (ray, tensordict, omegaconf and so on) are replaced while they are imported by modules of
empty classes. Nothing that computes is replaced: the functions of `core_algos` use torch and numpy alone.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

__all__ = ["actor_config", "advantages", "imports", "loss", "module", "weights"]

FOLDER = Path(sys.prefix) / "peers"
STOOD_IN = ("ray", "tensordict", "omegaconf", "codetiming", "orjson", "hydra")  # imported, never called
_loaded: dict[str, ModuleType] = {}


class _StandIn(ModuleType):
    """A module whose every attribute is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        empty = type(name, (), {})
        setattr(self, name, empty)
        return empty


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for the packages that are not installed; the last finder to be asked."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in STOOD_IN:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def _is_ours(name: str) -> bool:
    top = name.partition(".")[0]
    return top == "verl" or (top in STOOD_IN and isinstance(sys.modules.get(name), _StandIn))


@contextmanager
def imports() -> Iterator[None]:
    """Within it `import verl.…` works, also inside functions of verl; afterwards no trace of it is left.

    Skips the test where verl is not installed.
    """
    if not (FOLDER / "verl").is_dir():
        pytest.skip(f"verl is not installed in {FOLDER}; make test installs it")
    package = ModuleType("verl")
    package.__path__ = [str(FOLDER / "verl")]
    finder = _Finder()
    sys.modules.update({"verl": package} | _loaded)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_ours(name)]:
            _loaded[name] = sys.modules.pop(name)


@cache
def module(name: str) -> Any:
    """A module of verl, such as "verl.trainer.ppo.rollout_corr_helper"."""
    with imports():
        return importlib.import_module(name)


def core() -> Any:
    """`verl.trainer.ppo.core_algos`: losses, advantages, aggregation, KL."""
    return module("verl.trainer.ppo.core_algos")


def actor_config(**fields: Any) -> Any:
    """verl's `ActorConfig` with its own defaults; fields of `PolicyLossConfig` go to its `policy_loss`."""
    config = module("verl.workers.config.actor")
    nested = {name: fields.pop(name) for name in list(fields) if name in config.PolicyLossConfig.__dataclass_fields__}
    return config.ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        policy_loss=config.PolicyLossConfig(**nested),
        **fields,
    )


def loss(
    name: str,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: str = "token-sum",
    rollout_weights: Tensor | None = None,
    **fields: Any,
) -> Tensor:
    """The policy loss that `actor.policy_loss.loss_mode = name` chooses; advantages are (B,) or (B, T)."""
    function = core().get_policy_loss_fn(name)
    spread = advantages[:, None].expand_as(log_probs) if advantages.ndim == 1 else advantages
    value, _ = function(
        old_log_probs,
        log_probs,
        spread,
        mask.to(log_probs),
        aggregation,
        actor_config(**fields),
        rollout_weights,
    )
    result: Tensor = value
    return result


def weights(name: str, log_probs: Tensor, *args: Any, **fields: Any) -> Tensor:
    """Minus the derivative of `loss` in log π of each token; with the default "token-sum" the weight of the token.

    sapo and geo_mean aggregate in one way whatever is asked: the mean over responses of token means, and the mean over
    responses.
    """
    leaf = log_probs.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(name, leaf, *args, **fields), leaf)
    return -gradient


def advantages(
    estimator: str, rewards: Tensor, mask: Tensor, group_size: int | Sequence[Any], **arguments: Any
) -> Tensor:
    """Advantages (B, T) of `algorithm.adv_estimator = estimator` for one reward a response, given on its last token.

    `group_size` is that of groups of equal size, or the group's label of each response. `config`, where the estimator
    takes one, is given as a dict of fields of `AlgoConfig`.
    """
    import numpy as np

    labels = [i // group_size for i in range(len(rewards))] if isinstance(group_size, int) else list(group_size)
    token_rewards = torch.zeros(mask.shape, dtype=rewards.dtype)
    token_rewards[torch.arange(len(rewards)), mask.sum(-1) - 1] = rewards
    if "config" in arguments:
        arguments["config"] = module("verl.trainer.config").AlgoConfig(**arguments["config"])
    function = core().get_adv_estimator_fn(estimator)
    if estimator not in ("reinforce_plus_plus", "remax"):
        arguments["index"] = np.array(labels)
    values, _ = function(token_level_rewards=token_rewards, response_mask=mask.to(rewards), **arguments)
    result: Tensor = values
    return result
