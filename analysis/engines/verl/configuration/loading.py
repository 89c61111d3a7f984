"""By which route verl's processes import this package, and whether they can."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import entry_points

from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = [
    "LIBRARY_KEY",
    "PACKAGE",
    "VENDOR",
    "VENDOR_KEY",
    "Route",
    "is_multi_node",
    "libraries",
    "loading_problems",
    "loading_route",
]

PACKAGE = "analysis.engines.verl"
LIBRARY_KEY = "actor_rollout_ref.model.external_lib"
VENDOR = "dynamics"  # the vendor under which the observing engine is registered
VENDOR_KEY = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR"


class Route(Enum):
    """How a process of verl comes to import this package."""

    EXTERNAL_LIB = "actor_rollout_ref.model.external_lib"
    EXTERNAL_MODULES = "VERL_USE_EXTERNAL_MODULES"
    ENTRY_POINT = "the entry point verl.plugins"
    NONE = "not at all"


def loading_route(config: DictConfig, environment: Mapping[str, str]) -> Route:
    """The route that shows errors, where there is one."""
    if PACKAGE in libraries(config):
        return Route.EXTERNAL_LIB
    if PACKAGE in environment.get("VERL_USE_EXTERNAL_MODULES", "").split(","):
        return Route.EXTERNAL_MODULES
    allowed = environment.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    names = {point.name for point in entry_points(group="verl.plugins") if point.value == PACKAGE}
    if names and (allowed == "auto" or names & {name.strip() for name in allowed.split(",")}):
        return Route.ENTRY_POINT
    return Route.NONE


def loading_problems(config: DictConfig, environment: Mapping[str, str], *, needed: bool) -> list[str]:
    """Libraries that this Python cannot import, and a package that is needed and that nothing loads.

    Args:
        config: A composed configuration.
        environment: Variables of the process that will train.
        needed: Whether the configuration names something of this package.
    """
    messages = []
    for name in libraries(config):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever an import raises ends the run in each worker
            messages.append(
                f"{LIBRARY_KEY}: expected modules that every node can import, got {name}, which raises "
                f"{type(error).__name__}: {error}; install it, or correct the name"
            )
    if needed and loading_route(config, environment) is Route.NONE:
        messages.append(
            f"{LIBRARY_KEY}: expected {PACKAGE}, so that verl's workers load it, got {libraries(config) or 'none'}; "
            f"add {LIBRARY_KEY}={PACKAGE}"
        )
    return messages


def is_multi_node(config: DictConfig, environment: Mapping[str, str]) -> bool:
    """Whether workers may run on other machines or in a cluster that was started before."""
    address = OmegaConf.select(config, "ray_kwargs.ray_init.address", default=None)
    return config.trainer.nnodes > 1 or bool(address) or bool(environment.get("RAY_ADDRESS"))


def libraries(config: DictConfig) -> list[str]:
    """The modules that `external_lib` names."""
    held = config.actor_rollout_ref.model.external_lib
    if held is None:
        return []
    return [str(name) for name in held] if isinstance(held, ListConfig | list) else [str(held)]
