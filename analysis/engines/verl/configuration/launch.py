"""Running verl's trainer in this process, and the plain command that does the same."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import ray
from omegaconf import DictConfig
from ray.exceptions import RayTaskError

from ....errors import UsageError
from ..observing.finishing import finish
from .loading import LIBRARY_KEY, PACKAGE, VENDOR, VENDOR_KEY, libraries

__all__ = ["observing_overrides", "plain_command", "run"]

_ENGINE = "actor_rollout_ref.actor.fsdp_config"


def observing_overrides(config: DictConfig, out: Path | None, tokens: float | None) -> list[str]:
    """The overrides that load this package and, with a folder, record into it.

    Args:
        config: Composed from what the user set.
        out: The run folder; None leaves the records as the user set them.
        tokens: Fraction of the prompts whose tokens are recorded; None for the default.
    """
    added = []
    if PACKAGE not in (loaded := libraries(config)):
        added.append(f"{LIBRARY_KEY}=" + (f"[{','.join([*loaded, PACKAGE])}]" if loaded else PACKAGE))
    if out is not None:
        added += [
            f"{_ENGINE}._target_={PACKAGE}.ObservedEngineConfig",
            f"++{_ENGINE}.record.out={_quoted(str(out.expanduser().resolve()))}",
            f"++{VENDOR_KEY}={VENDOR}",
        ]
    if tokens is not None:
        added.append(f"++{_ENGINE}.record.tokens={tokens}")
    return added


def _quoted(text: str) -> str:
    """A value in Hydra's grammar."""
    if re.fullmatch(r"[\w./@+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def plain_command(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str | None = None) -> str:
    """verl's own command with these overrides, for a shell: one override on each line."""
    words = ["python -m verl.trainer.main_ppo"]
    words += [] if config_dir is None else [f"--config-dir {shlex.quote(str(config_dir))}"]
    words += [] if config_name is None else [f"--config-name {shlex.quote(config_name)}"]
    return " \\\n  ".join([*words, *map(shlex.quote, overrides)])


def run(config: DictConfig, out: Path | None) -> None:
    """Train: what `python -m verl.trainer.main_ppo` does with this configuration.

    Ray ends with it. A run of records that the engine has not completed is marked as interrupted; what it committed
    stays whole.

    Args:
        config: What `compose` returns.
        out: The run folder of its records, None where there is none.

    Raises:
        UsageError: A worker refused its settings.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    from verl.trainer import main_ppo

    try:
        main_ppo.main(config)
    except BaseException as error:
        ray.shutdown()
        if out is not None:
            with contextlib.suppress(OSError, UsageError):  # what ended the training is the message
                finish(out, "interrupted")
        if (cause := _raised_in_a_worker(error)) is error:
            raise
        raise cause from error
    ray.shutdown()
    if out is not None:
        finish(out)


def _raised_in_a_worker(error: BaseException) -> BaseException:
    """What was raised in the worker, without the wrappers of each process on its way here."""
    if isinstance(error, SystemExit):  # Ray answers SIGTERM so
        return KeyboardInterrupt()
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) and error.cause is not error:
        error = error.cause
    return UsageError(str(error)) if isinstance(error, UsageError) else error
