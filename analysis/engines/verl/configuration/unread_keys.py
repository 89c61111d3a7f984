"""Keys of a configuration that nothing reads: verl takes any key that is added with "+", and passes over most."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ray
import verl
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from toy_models.messages import nearest

from .composition import compose

__all__ = ["unread_keys"]

_OURS = re.compile(r"^(algorithm|actor_rollout_ref\.actor\.policy_loss)\.rlvr_")  # objective_names judges these
_READ_AS_A_MAPPING = ("algorithm",)  # has a dataclass that verl does not make: keys beside its fields are read too
_RAY = "ray_kwargs.ray_init"  # verl hands it to `ray.init`
_OTHER_ENGINES = ("megatron", "torchtitan", "veomni")  # whose defaults are in files of their own


def unread_keys(config: DictConfig) -> list[str]:
    """One message for each added key that verl has no place for.

    A key is known if verl's own configuration has it, if the dataclass that verl makes of its node has such a field,
    or, where verl makes none, if some file of verl reads a key of that name. What lies beneath a mapping that verl
    leaves open, such as `override_config`, and beneath top-level keys of other programs, is not judged.

    Args:
        config: A composed configuration.

    Returns:
        The messages, none where every key is read.
    """
    strategy = str(OmegaConf.select(config, "actor_rollout_ref.actor.strategy", default="fsdp"))
    base = compose([f"model_engine={strategy if strategy in _OTHER_ENGINES else 'dp'}"])
    return [_message(path, known) for path, known in _added(_plain(config), _plain(base), "")]


def _plain(config: DictConfig) -> dict[str, Any]:
    held = OmegaConf.to_container(config, resolve=False)
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


def _added(node: Mapping[str, Any], base: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    """Keys of `node` that nothing reads, each with the keys that it might have been meant for."""
    fields = list(inspect.signature(ray.init).parameters) if path == _RAY else _fields(node.get("_target_"))
    for key, value in node.items():
        full = f"{path}.{key}" if path else key
        if key in base:
            if isinstance(value, Mapping) and isinstance(base[key], Mapping) and base[key]:
                yield from _added(value, base[key], full)
        elif path and not key.startswith("_") and not _OURS.match(full):
            decided_by_fields = fields is not None and path not in _READ_AS_A_MAPPING
            if key not in (fields or ()) and (decided_by_fields or not _is_read_somewhere(key)):
                yield full, [*base, *(fields or ())]


def _fields(target: Any) -> list[str] | None:
    """Fields of the dataclass that a node becomes; None where it stays a mapping."""
    if not isinstance(target, str):
        return None
    try:
        kind = get_class(target)
    except (ImportError, ValueError):  # verl's own check names it
        return None
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None


def _message(path: str, known: list[str]) -> str:
    parent, _, key = path.rpartition(".")
    suggestion = nearest(key, [name for name in known if not name.startswith("_")])
    hint = f"; {suggestion}" if suggestion.startswith("did you mean") else ""
    return f"{path}: expected a key that verl reads of {parent}, got {key!r}{hint}; correct it or leave it out"


def _is_read_somewhere(key: str) -> bool:
    return re.search(rf"""["'.]{re.escape(key)}\b""", _source_of_verl()) is not None


@cache
def _source_of_verl() -> str:
    (folder,) = verl.__path__
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(folder).rglob("*.py")))
