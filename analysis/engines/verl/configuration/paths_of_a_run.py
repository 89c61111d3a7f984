"""Files that a run reads, and the folder that its records go to, looked at before anything is started."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, ListConfig, OmegaConf

from ....errors import UsageError
from ....records.folders import RUN_FILE, read_run_json
from ..observing.facts import ENGINE, Marker

__all__ = ["latest_checkpoint", "missing_files", "record_folder_problems", "record_out", "training_prompts"]

_FUNCTIONS = ("reward.custom_reward_function", "trainer.v1.sampler.custom_sampler", "reward.reward_manager.module")
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}  # of rollouts, with their packages
_RECORD = "actor_rollout_ref.actor.fsdp_config.record"


def missing_files(config: DictConfig) -> list[str]:
    """Data, models and functions that the configuration names and that are not there.

    Addresses of other file systems and names of the Hub are not looked up.
    """
    checks = (_missing_data, _missing_model, _missing_functions, _missing_sampling_engine)
    return [message for function in checks for message in function(config)]


def _missing_data(config: DictConfig) -> Iterator[str]:
    for key in ("data.train_files", "data.val_files"):
        held = OmegaConf.select(config, key, default=None)
        missing = [name for name in _names(held) if "://" not in name and not Path(name).expanduser().is_file()]
        if missing:
            yield (
                f"{key}: expected files that exist, got {', '.join(missing)}; correct the path, or prepare the data "
                "first"
            )
    batch = config.data.get("gen_batch_size", None) or config.data.train_batch_size
    try:
        rows = training_prompts(config)
    except UsageError as error:
        yield str(error)
        return
    if rows is not None and rows < batch:
        yield (
            f"data.train_files: expected at least the {batch} prompts of a batch, got {rows}; lower "
            "data.train_batch_size, or add prompts"
        )


def training_prompts(config: DictConfig) -> int | None:
    """The number of rows of the training files; None where it is not told by files of this machine.

    Raises:
        UsageError: One of them is not Parquet.
    """
    paths = [Path(name).expanduser() for name in _names(config.data.train_files)]
    if not paths or not all(path.is_file() and path.suffix == ".parquet" for path in paths):
        return None
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"data.train_files: expected Parquet files, got one that cannot be read; {error}") from error


def _names(held: Any) -> list[str]:
    return [] if held is None else [str(name) for name in (held if isinstance(held, ListConfig | list) else [held])]


def _missing_model(config: DictConfig) -> Iterator[str]:
    path = str(config.actor_rollout_ref.model.path)
    is_local = path.startswith(("/", "./", "../", "~")) or path.count("/") > 1
    if is_local and "://" not in path and not (Path(path).expanduser() / "config.json").is_file():
        yield (
            f"actor_rollout_ref.model.path: expected a folder with config.json or a name of the Hub, got {path}; "
            "correct the path"
        )


def _missing_sampling_engine(config: DictConfig) -> Iterator[str]:
    name = OmegaConf.select(config, "actor_rollout_ref.rollout.name", throw_on_missing=False, default=None)
    if name in _ENGINES and find_spec(_ENGINES[name]) is None:
        yield (
            f"actor_rollout_ref.rollout.name: expected an engine that is installed, got {name}, which is not; install "
            f"{_ENGINES[name]} beside verl, as its documentation says"
        )


def _missing_functions(config: DictConfig) -> Iterator[str]:
    for key in _FUNCTIONS:
        path = OmegaConf.select(config, f"{key}.path", default=None)
        name = OmegaConf.select(config, f"{key}.name", default=None)
        if not path:
            continue
        source = _source(str(path))
        if source is None:
            yield f"{key}.path: expected a Python file or pkg://MODULE, got {path}; correct it"
        elif name and not _defines(source, str(name)):
            yield f"{key}.name: expected a name that {path} defines, got {name}; correct it"


def _source(path: str) -> Path | None:
    """The file of a module as verl names one."""
    if path.startswith("pkg://"):
        try:
            spec = find_spec(path.removeprefix("pkg://").replace("/", "."))
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec is not None and spec.origin else None
    file = Path(path.removeprefix("file://")).expanduser()
    return file if file.is_file() else None


def _defines(source: Path, name: str) -> bool:
    """Whether a module binds the name at its top level, or might; it is not run."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return True  # verl's own message is the better one
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) in (name, "*"):
            return True
    return False


def record_out(config: DictConfig) -> str | None:
    """The folder that records go to, None where there is none."""
    value = OmegaConf.select(config, f"{_RECORD}.out", default=None)
    return None if value is None else str(value)


def latest_checkpoint(config: DictConfig) -> Path | None:
    """The checkpoint that verl will resume from, None where it starts from the beginning."""
    trainer = config.trainer
    if trainer.resume_mode == "resume_path":
        return None if trainer.resume_from_path is None else Path(str(trainer.resume_from_path))
    if trainer.resume_mode != "auto":
        return None
    latest = Path(str(trainer.default_local_dir)) / "latest_checkpointed_iteration.txt"
    try:
        folder = latest.parent / f"global_step_{int(latest.read_text(encoding='utf-8'))}"
    except (OSError, ValueError):
        return None
    return folder if folder.is_dir() else None


def record_folder_problems(config: DictConfig) -> list[str]:
    """Why records cannot be written to the folder: it cannot be made, or holds what does not belong to this run."""
    out = record_out(config)
    if out is None:
        return []
    key, folder = f"{_RECORD}.out", Path(out).expanduser()
    if config.trainer.nnodes > 1 and not folder.is_absolute():
        return [f"{key}: expected an absolute path of a folder that all nodes share, got {out}; write it in full"]
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [f"{key}: expected a folder that can be written, got {out}; {existing} cannot; choose another"]
    return list(_contents(key, folder, latest_checkpoint(config)))


def _contents(key: str, folder: Path, checkpoint: Path | None) -> Iterator[str]:
    try:
        marker = None if checkpoint is None else Marker.read(checkpoint / "actor")
        if marker is not None:
            marker.check(folder)
            return
        if not (folder / RUN_FILE).exists():
            return
        engine = read_run_json(folder).get("engine")
    except UsageError as error:
        yield f"{key}: {str(error).removeprefix('record.out: ')}"
        return
    if engine != ENGINE:
        yield f"{key}: expected a folder of its own, got {folder}, which holds a run of {engine}; choose another folder"
        return
    begins = "starts from the beginning" if checkpoint is None else f"resumes {checkpoint}, which has no records"
    yield (
        f"{key}: expected a new folder, since verl {begins}, got {folder}, which holds a run; choose another folder, "
        "or remove it"
    )
