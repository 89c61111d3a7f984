"""Folders with an adapter in peft's format: which model it belongs to. Loads no torch.

Such a folder holds `adapter_config.json` and the adapter's weights. One that was saved here also holds
`base_model.json`: the base as it was named, and the SHA-256 of its weights, so that an adapter is not put on another
model of the same shape.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .source import ModelSource, model_source

__all__ = ["AdapterBase", "adapter_base", "check_peft", "is_adapter", "weights_digest"]

ADAPTER_CONFIG = "adapter_config.json"
_BASE = "base_model.json"
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class AdapterBase:
    """The model that an adapter belongs to.

    Attributes:
        base: As `load_policy` takes it.
        seed: Seed of a built-in base.
        revision: Commit of a model on the Hub.
        sha256: Of the files of its weights (`weights_digest`); None where the adapter was saved elsewhere.
    """

    base: str
    seed: int = 0
    revision: str | None = None
    sha256: str | None = None

    @property
    def source(self) -> ModelSource:
        """What the name stands for; ValueError as `model_source`."""
        return model_source(self.base, self.revision)

    def save(self, folder: Path) -> None:
        """Write it beside an adapter."""
        (folder / _BASE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def check_peft() -> None:
    """ValueError where the package peft is missing."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            "expected the package peft, which makes and reads adapters, got none; install it with: pip install "
            "'rlvr-dynamics[peft]'"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def adapter_base(folder: Path) -> AdapterBase:
    """The base of the adapter in a folder.

    Raises:
        ValueError: Its files name none, or one that is not there.
    """
    try:
        if (folder / _BASE).is_file():
            base = AdapterBase(**_read(folder / _BASE))
        else:
            settings = _read(folder / ADAPTER_CONFIG)
            base = AdapterBase(settings["base_model_name_or_path"], revision=settings.get("revision"))
        if not isinstance(base.base, str):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected the name of a base model in {folder / ADAPTER_CONFIG}, got none; write base_model_name_or_path "
            "there: the folder or the id of the model that the adapter was trained on"
        ) from error
    try:
        source = base.source
    except ValueError as error:
        raise ValueError(
            f"expected the base model of the adapter in {folder}, got {base.base!r}, which is not there: {error}; "
            f"write where it lies now into {folder / (_BASE if (folder / _BASE).is_file() else ADAPTER_CONFIG)}"
        ) from error
    if source.kind == "folder" and source.path.resolve() == folder.resolve():
        raise ValueError(f"expected another folder as the base of the adapter in {folder}, got that folder itself")
    return base


def weights_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the weight files of a model's folder."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object")
    return content
