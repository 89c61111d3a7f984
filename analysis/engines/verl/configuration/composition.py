"""The configuration that verl's command would compose from the same overrides, without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ....errors import UsageError

__all__ = ["compose", "expanded"]

_MODULE, _NAME = "verl.trainer.config", "ppo_trainer"  # what the decorator of verl.trainer.main_ppo names


def compose(
    overrides: Sequence[str] = (), *, config_dir: str | Path | None = None, config_name: str = _NAME
) -> DictConfig:
    """The configuration of `python -m verl.trainer.main_ppo OVERRIDES…`.

    Args:
        overrides: Overrides in Hydra's syntax, such as "algorithm.adv_estimator=psr" or "+algorithm.rlvr_lambda=0.1",
            and files of them, "@FILE"; see `expanded`.
        config_dir: A folder with configurations of your own, as Hydra's `--config-dir`; they can have verl's
            among their defaults.
        config_name: The configuration to start from, as Hydra's `--config-name`.

    Returns:
        The composed configuration; interpolations are kept and resolve on reading.

    Raises:
        UsageError: An override that Hydra cannot read, a key that verl does not have, a missing file.

    Example:
        >>> compose(["algorithm.adv_estimator=grpo"]).algorithm.adv_estimator
        'grpo'
    """
    folder = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if folder is not None and not (folder / f"{config_name}.yaml").is_file():
        raise UsageError(
            f"--config-dir: expected a folder with {config_name}.yaml, got {config_dir}; --config-name names the file"
        )
    search = [] if folder is None else [f"hydra.searchpath=[pkg://{_MODULE}]"]
    GlobalHydra.instance().clear()  # a program that composes twice, or from within a program that uses Hydra
    with (
        initialize_config_module(_MODULE, version_base=None)
        if folder is None
        else initialize_config_dir(str(folder), version_base=None)
    ):
        try:
            return hydra_compose(config_name, [*expanded(overrides), *search])
        except OverrideParseException as error:
            raise UsageError(_explained(f"{error.override}: {error}")) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_explained(str(error))) from error


def expanded(overrides: Sequence[str], folder: str | Path = ".") -> list[str]:
    """Overrides in their order, with each "@FILE" replaced by the overrides of the file.

    A file has one override on each line, written as on the command line but without the shell's quotes. Empty lines and
    lines that start with "#" are left out. A line may name another file, relative to the file that it stands in. Of two
    values for one key the later one counts.

    Args:
        overrides: Overrides, and "@FILE" for files of them.
        folder: What relative paths are relative to.

    Raises:
        UsageError: A file that cannot be read, or that names itself.

    Example:
        >>> expanded(["trainer.nnodes=2", "data.seed=1"])
        ['trainer.nnodes=2', 'data.seed=1']
    """
    return list(_lines(overrides, Path(folder), ()))


def _lines(overrides: Sequence[str], folder: Path, opened: tuple[Path, ...]) -> Iterator[str]:
    for override in overrides:
        if not override.startswith("@"):
            yield override
            continue
        path = (folder / Path(override[1:]).expanduser()).resolve()
        if path in opened:
            raise UsageError(
                f"{override}: expected files that do not name themselves, got {path} again; remove the line"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{override}: expected a text file with one override on each line, got {path}; {error}"
            ) from error
        lines = [line.strip() for line in text.splitlines()]
        yield from _lines([line for line in lines if line and not line.startswith("#")], path.parent, (*opened, path))


def _explained(message: str) -> str:
    """Hydra's message on one line."""
    line = " ".join(message.split())
    return f"overrides: expected keys of verl's configuration and values that Hydra can read; {line}"
