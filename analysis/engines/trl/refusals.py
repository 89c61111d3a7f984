"""What `analysis.watch` refuses before training starts, each with one message that says what to do instead."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from ...errors import UsageError
from .batches import class_names

__all__ = ["NEEDED", "TESTED_TRL", "check_trainer", "trl_version"]

TESTED_TRL = ("1.12.0", "1.16.0")  # the oldest and newest versions of TRL that `make test-trl` was run on

NEEDED = (
    "_calculate_rewards",
    "_generate_and_score_completions",
    "_prepare_inputs",
    "_compute_loss",
    "_get_per_token_logps_and_entropies",
)
_ATTACH = "attach to the model instead: analysis.attach(trainer.model, …), see docs/how_to/attach_to_trl.md"


def trl_version() -> str:
    """The version of TRL that is installed, "unknown" where there is none by that name."""
    try:
        return version("trl")
    except PackageNotFoundError:
        return "unknown"


def check_trainer(trainer: Any) -> None:
    """UsageError for a TRL trainer of rollouts that cannot be watched; a warning for a version that was not tested."""
    kind, args, installed = type(trainer).__name__, trainer.args, trl_version()
    if any(name.startswith("Async") for name in class_names(trainer)):
        raise UsageError(
            f"trainer: expected rollouts that are made between updates, got the asynchronous {kind}; {_ATTACH}"
        )
    if [name for name in NEEDED if not callable(getattr(trainer, name, None))]:
        raise UsageError(
            f"trainer: expected a {kind} with the methods {', '.join(NEEDED)}, as in TRL {' to '.join(TESTED_TRL)}, "
            f"got TRL {installed} without some of them; install another version, or {_ATTACH}"
        )
    if hasattr(trainer, "liger_grpo_loss") or getattr(args, "use_liger_loss", False):
        raise UsageError(
            "trainer: expected a loss computed from log-probs, got Liger's, which makes none; set use_liger_loss=False "
            f"(use_liger_kernel=False in TRL before 1.0), or {_ATTACH}"
        )
    if getattr(args, "padding_free", False) or getattr(args, "packing", False):
        raise UsageError(
            f"trainer: expected one response in each row, got packed rows; set padding_free=False, or {_ATTACH}"
        )
    if getattr(args, "auto_find_batch_size", False):
        raise UsageError(
            "trainer: expected a fixed batch size, got auto_find_batch_size=True, which starts training again after an "
            "update was recorded; set per_device_train_batch_size"
        )
    if getattr(args, "fp16", False) and bool(getattr(args, "deepspeed", None)):
        raise UsageError(
            "trainer: expected a known factor of the loss, got DeepSpeed's fp16, which scales it by itself; train in "
            "bf16"
        )
    if installed != "unknown" and not Version(TESTED_TRL[0]) <= Version(installed) <= Version(TESTED_TRL[1]):
        warnings.warn(
            f"analysis.watch: tested with TRL {' to '.join(TESTED_TRL)}, got {installed}; the first update is compared "
            "with the trainer's own loss, and training stops where they differ",
            stacklevel=4,
        )
