"""What a run reads besides its recipe: models, files of prompts and answers, and a verifier's source, by their content.

A relative path in a recipe file is relative to that file, one in `--set` or `Recipe.set` to the current folder; both
are kept as absolute paths, so that an experiment can be resumed from any folder. A recipe's hash holds the SHA-256 of
the content instead: an experiment with other data or other weights is another experiment, wherever its files lie.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy_models.bases.recipes import BASES
from toy_models.file_digests import file_digest
from toy_models.model_sources.adapter_folder import adapter_base, is_adapter
from toy_models.model_sources.gguf_header import GGUF_SUFFIX
from toy_models.model_sources.hub import hub_commit
from toy_models.model_sources.source import ModelSource, model_source
from toy_models.tasks.dataset_task import SAVED
from toy_models.tasks.file_task import FILE_TASK, DataFiles
from toy_models.user_functions import helper_files
from toy_models.user_functions import source_file as source_of
from toy_models.verifiers.built_in import VERIFIERS, get_verifier, source_file

from ..errors import UsageError
from ..objectives.rules import is_own
from .config import UNSET, config_to_dict
from .fields import GIVEN, RunConfig, TaskFields
from .model_checks import model_commit, model_sources
from .public_tasks import public_identity

__all__ = ["anchored", "changed_inputs", "check_inputs", "data_files", "identified", "input_digests"]

_FILES = ("train_file", "validation_file", "test_file")
_FUNCTIONS = ("task.verifier", "objective.name")
_REVISIONS = {"policy.base": "revision", "objective.teacher": "teacher_revision"}  # of each field that names a model
_HUB = "hub:"
# What transformers reads of a model's folder, and what lies beside it in a checkpoint of a trainer.
_MODEL_FILES = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.safetensors",
    "*.tiktoken",
    "additional_chat_templates/*.jinja",
    "merges.txt",
    "pytorch_model*.bin",
    "vocab.txt",
)
_NOT_OF_A_MODEL = ("base.json", "trainer_state.json", "training_args.json")


def anchored(path: str, value: Any, folder: Path) -> Any:
    """The value of the field `path` (or a list of them); where it is a relative path, made absolute from `folder`."""
    if isinstance(value, list):
        return [anchored(path, item, folder) for item in value]
    if not isinstance(value, str) or value == UNSET:
        return value
    if path.removeprefix("task.") in _FILES:
        return str(_absolute(value, folder))
    function = path in _FUNCTIONS
    if function and (colon := value.rfind(":")) > 0 and value[:colon].endswith(".py"):
        return f"{_absolute(value[:colon], folder)}{value[colon:]}"
    if path == "task.dataset" and _is_source(_absolute(value, folder)):
        return str(_absolute(value, folder))
    if path in _REVISIONS and value not in (*BASES, GIVEN):
        absolute = _absolute(value, folder)
        local = absolute.exists() or (value.endswith(GGUF_SUFFIX) and ":" not in value)
        return str(absolute) if local else value
    return value


def _is_source(path: Path) -> bool:
    """Whether a path is a saved data set, or the file or package of an environment, rather than a name like one."""
    return path.suffix == ".py" or any((path / name).is_file() for name in (*SAVED, "__init__.py"))


def _absolute(value: str, folder: Path) -> Path:
    return (folder.absolute() / Path(value).expanduser()).resolve()


def data_files(task: TaskFields) -> DataFiles:
    """The files of the task `file`, as its class reads them."""
    assert task.train_file is not None
    return DataFiles(task.train_file, task.validation_file, task.test_file, task.prompt_column, task.answer_column)


def check_inputs(config: RunConfig) -> None:
    """Refuse files and verifiers that cannot be read, before anything is started; UsageError names field and line."""
    if is_own(config.objective.name):
        from ..objectives import get

        get(config.objective.name)
    if config.task.name == GIVEN and config.task.digest is None:
        raise UsageError(
            f'task.name = "{GIVEN}" stands for a task object, got none; pass it with analysis.run(recipe, task=…)'
        )
    if config.task.name == FILE_TASK:
        try:
            verifier = get_verifier(config.task.verifier, seconds=config.task.verifier_seconds)
        except ValueError as error:
            raise UsageError(f"task.verifier = {config.task.verifier!r}: {error}") from error
        try:
            data_files(config.task).read(getattr(verifier, "required", ()))
        except ValueError as error:
            raise UsageError(f"task: {error}") from error


def input_digests(config: RunConfig) -> dict[str, dict[str, str]]:
    """field -> path and sha256 of each file that the run reads; UsageError where one is missing.

    The files that a function's source imports from beside it follow its field: "task.verifier helper.py"; so do the
    files of a model's folder: "policy.base config.json". A model of the Hub has its commit instead of a sha256, and
    the path `hub:owner/name@revision`.
    """
    files = {}
    if is_own(config.objective.name):
        try:
            files["objective.name"] = source_of(config.objective.name, "objective")
        except ValueError as error:
            raise UsageError(f"objective.name = {config.objective.name!r}: {error}") from error
    files |= _task_files(config)
    for field in [field for field in _FUNCTIONS if field in files]:
        folder = files[field].resolve().parent
        files |= {f"{field} {os.path.relpath(path, folder)}": path for path in helper_files(files[field])}
    digests: dict[str, dict[str, str]] = {}
    for field, source in model_sources(config).items():
        found, commits = _model_inputs(field, source)
        files |= found
        digests |= commits
    for field, path in files.items():
        try:
            digests[field] = {"path": str(path), "sha256": file_digest(path)}
        except OSError as error:
            raise UsageError(f"{field}: {path} cannot be read: {error.strerror}") from error
    return digests


def _model_inputs(field: str, source: ModelSource) -> tuple[dict[str, Path], dict[str, dict[str, str]]]:
    """The files of a model on this machine, and the commit of one on the Hub; those of an adapter and of its base."""
    if source.kind == "hub":
        return {}, {field: {"path": _hub_path(source), "commit": model_commit(field, source)}}
    if source.kind != "folder":
        return ({field: source.path} if source.kind == "gguf" else {}), {}
    folder, key = source.path, field if " " in field else f"{field} "
    paths = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.name not in _NOT_OF_A_MODEL}
    files = {f"{key}{path.relative_to(folder)}": path for path in sorted(paths)}
    commits: dict[str, dict[str, str]] = {}
    if is_adapter(folder):
        try:
            base = adapter_base(folder)
        except ValueError as error:
            raise UsageError(f"{field}: {error}") from error
        found, commits = _model_inputs(f"{key}base/", base.source)
        files |= found
    return files, commits


def _hub_path(source: ModelSource) -> str:
    return f"{_HUB}{source.name}@{source.revision}"


def _commit_now(path: str) -> str:
    """The commit that a path of `_hub_path` stands for now."""
    name, _, revision = path.removeprefix(_HUB).rpartition("@")
    return hub_commit(model_source(name, revision))


def _task_files(config: RunConfig) -> dict[str, Path]:
    if config.task.name != FILE_TASK:
        return {}
    files = {f"task.{name}": Path(value) for name in _FILES if (value := getattr(config.task, name)) is not None}
    if config.task.verifier not in VERIFIERS:
        try:
            files["task.verifier"] = source_file(config.task.verifier)
        except ValueError as error:
            raise UsageError(f"task.verifier = {config.task.verifier!r}: {error}") from error
    return files


def identified(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain data in which files stand by their content: what hashes are made of.

    A field that was added later is left out where it is at its default, so that older experiments keep their hashes.
    """
    plain = config_to_dict(config)
    for group in dataclasses.fields(config):
        part = getattr(config, group.name)
        for item in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
            if item.metadata.get("later") and getattr(part, item.name) == item.default:
                del plain[group.name][item.metadata.get("key", item.name)]
    if (identity := public_identity(config.task)) is not None:
        name = plain["task"]["dataset"]
        plain["task"]["dataset"] = identity if Path(name).is_absolute() else f"{name} of {identity}"
    digests = input_digests(config)
    for field, source in model_sources(config).items():
        table, _, name = field.partition(".")
        plain[table][name] = "folder"
        if source.kind == "hub":
            plain[table].pop(_REVISIONS[field], None)
            plain[table][name] = f"{_HUB}{source.name}@{digests.pop(field)['commit']}"
    for entry, file in digests.items():
        field, _, helper = entry.partition(" ")
        table, _, name = field.partition(".")
        if helper:
            content = file["commit"] if "commit" in file else f"sha256:{file['sha256']}"
            plain[table][name] += f" {helper}@{content}"
            continue
        function = plain[table][name].rpartition(":")[2] + "@" if field in _FUNCTIONS else ""
        plain[table][name] = f"{function}sha256:{file['sha256']}"
    return plain


def changed_inputs(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Those of the files (path, relative to `folder` or absolute -> sha256) that are gone or hold something else.

    A model of the Hub is among them where its revision is another commit than it was.
    """
    changed = []
    for path, digest in digests.items():
        try:
            now = _commit_now(path) if path.startswith(_HUB) else file_digest(folder / path)
            if now != digest:
                changed.append(path)
        except (OSError, ValueError):
            changed.append(path)
    return changed
