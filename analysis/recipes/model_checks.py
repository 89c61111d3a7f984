"""What can be known about the models that a recipe names without loading them; loads no torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from toy_models.bases.recipes import BASES
from toy_models.model_sources.adapter_folder import adapter_base, check_peft, is_adapter
from toy_models.model_sources.gguf_cache import gguf_version
from toy_models.model_sources.gguf_header import read_header
from toy_models.model_sources.hub import check_hub_model, hub_commit, hub_folder
from toy_models.model_sources.source import TOKENIZER_FILES, ModelSource, model_source

from ..errors import UsageError
from .fields import GIVEN, RunConfig

__all__ = [
    "check_base",
    "check_lora",
    "check_template",
    "is_toy",
    "local_model",
    "model_commit",
    "model_sources",
    "pinned",
]

_TOY_WIDTH = 256  # the built-in bases are narrower, pretrained models wider


def check_base(field: str, base: str, revision: str | None = None) -> None:
    """Refuse a base that is plainly not one; the loader says what else may be wrong.

    Args:
        field: the field or option that names the base, for the message.
        base: a built-in base, a folder, a GGUF file, or an id of the Hub.
        revision: branch, tag or commit of a model on the Hub.

    Raises:
        UsageError: it is none of these, the folder lacks a model or a tokenizer, or the Hub does not give the model.
    """
    if base == GIVEN and revision is None:
        return
    try:
        source = model_source(base, revision)
        if source.kind == "gguf":
            read_header(source.path)
        elif source.kind == "hub":
            check_hub_model(source)
        if source.kind == "gguf" or source.file is not None:
            gguf_version()
    except (ValueError, OSError) as error:
        raise UsageError(f"{field} = {base!r}: {error}") from error
    if source.kind == "folder":
        _check_folder(field, source.path)


def check_lora(config: RunConfig) -> None:
    """Refuse an adapter where the package that makes it is missing; UsageError."""
    if config.policy.lora_r is not None:
        try:
            check_peft()
        except ValueError as error:
            raise UsageError(f"policy.lora.r = {config.policy.lora_r}: {error}") from error


def _check_folder(field: str, folder: Path) -> None:
    if is_adapter(folder):
        try:
            check_peft()
            base = adapter_base(folder)
        except ValueError as error:
            raise UsageError(f"{field}: {error}") from error
        check_base(f"{field} (an adapter whose base)", base.base, base.revision)
        return
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{field}: expected a folder with a Hugging Face causal LM, got {str(folder)!r}, which has no config.json; "
            "name the folder in which model.save_pretrained left it"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(f"{field}: {folder} has no tokenizer (tokenizer.json); save the model's own there")


def model_sources(config: RunConfig) -> dict[str, ModelSource]:
    """Field -> source of each model that is neither a built-in base nor an object; what is not a model is left out."""
    named = {
        "policy.base": (config.policy.base, config.policy.revision),
        "objective.teacher": (config.objective.teacher, config.objective.teacher_revision),
    }
    sources = {}
    for field, (base, revision) in named.items():
        if base is None or base in (*BASES, GIVEN):
            continue
        try:
            sources[field] = model_source(base, revision)
        except ValueError:  # `check_base` says why
            continue
    return sources


def model_commit(field: str, source: ModelSource) -> str:
    """The commit of a model on the Hub; UsageError, which names the field, where it cannot be known."""
    try:
        return hub_commit(source)
    except ValueError as error:
        raise UsageError(f"{field} = {source.name!r}: {error}") from error


def pinned(config: RunConfig) -> RunConfig:
    """The configuration with the commits of its models from the Hub as their revisions.

    It is the same experiment: the commit is what identifies such a model. A branch may move, or be another commit in
    the cache of another machine.
    """
    changes: dict[str, Any] = {}
    for field, source in model_sources(config).items():
        if source.kind == "hub":
            table, name = ("policy", "revision") if field == "policy.base" else ("objective", "teacher_revision")
            part = dataclasses.replace(getattr(config, table), **{name: model_commit(field, source)})
            changes[table] = part
    return dataclasses.replace(config, **changes)


def local_model(config: RunConfig) -> Path | None:
    """The folder or the GGUF file of the policy; None for a built-in base, an object, or one not downloaded yet."""
    source = model_sources(config).get("policy.base")
    if source is None:
        return None
    return _local(source)


def _local(source: ModelSource) -> Path | None:
    if source.kind == "built-in":
        return None
    path = hub_folder(source) if source.kind == "hub" else source.path
    if path is None or not is_adapter(path) or (path / "tokenizer.json").is_file():
        return path
    try:
        return _local(adapter_base(path).source)
    except ValueError:  # `check_base` says why
        return None


def check_template(config: RunConfig) -> None:
    """Refuse a chat template that is asked for and not there; UsageError."""
    path = local_model(config)
    if path is not None and config.task.chat_template and not _has_chat_template(path):
        raise UsageError(
            f"task.chat_template: expected a tokenizer with a chat template, got that of {path}, which has none; "
            "leave task.chat_template out, or save a tokenizer with a template there"
        )


def _has_chat_template(path: Path) -> bool:
    """Whether the tokenizer of a model has a chat template, by the places where transformers looks for one."""
    if path.is_file():
        return "tokenizer.chat_template" in read_header(path)
    if any(
        (path / name).exists() for name in ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    ):
        return True
    try:
        settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # the loader says what is wrong with it
    return not isinstance(settings, dict) or bool(settings.get("chat_template"))


def is_toy(path: Path) -> bool:
    """Whether the model of a folder or file is as small as the built-in bases: a checkpoint of one of them, say."""
    if path.is_file():
        header = read_header(path)
        width = header.get(f"{header['general.architecture']}.embedding_length")
    else:
        try:
            settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        width = settings.get("hidden_size") if isinstance(settings, dict) else None
    return isinstance(width, int) and width <= _TOY_WIDTH
