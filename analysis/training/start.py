"""What a run starts from: its device, its policy and task, and what run.json says of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from toy_models import Policy, Task, get_task, load_policy

from ..errors import UsageError
from .config import config_to_dict
from .fields import RunConfig
from .machine import machine_info

__all__ = ["load_policy_and_task", "pick_device", "run_identity"]


def pick_device(name: str) -> torch.device:
    """The device of a recipe: auto is CUDA when there is one. UsageError where a CUDA device is asked for in vain."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device: {name} was asked for, but torch {torch.__version__} sees no CUDA device; use auto or cpu"
        )
    return torch.device(name)


def load_policy_and_task(config: RunConfig, device: torch.device) -> tuple[Policy, Task]:
    """The base that the recipe names, and the task in its tokenizer; UsageError where they cannot be had."""
    fields = config.policy
    try:
        policy = load_policy(fields.base, seed=fields.seed, dtype=getattr(torch, fields.dtype), device=device)
        return policy, get_task(config.task.name, policy.tokenizer)
    except ValueError as error:  # a folder that is no checkpoint, or one that does not fit the task
        raise UsageError(f"policy.base = {fields.base!r}: {error}") from error


def run_identity(config: RunConfig, model: torch.nn.Module, run_id: str, label: str) -> dict[str, Any]:
    """The fields of run.json that a run starts with; `model` is the base, untouched."""
    made_with = machine_info()
    resolved = config_to_dict(config)
    canonical = json.dumps({"run_id": run_id, "config": resolved}, sort_keys=True)
    return {
        "run_id": run_id,
        "label": label,
        "engine": "small",
        "recipe": resolved,
        "hash": hashlib.sha256(canonical.encode()).hexdigest(),
        "seed": config.seed,
        "temperature": config.rollout.temperature,
        "base_sha256": _weights_hash(model),
        "versions": made_with["versions"],
        "git_commit": made_with["commit"],
        "machine": made_with["machine"],
        "threads": torch.get_num_threads(),
        "device": str(next(model.parameters()).device),
        "dtype": config.policy.dtype,
        "record": resolved["record"],
    }


def _weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
