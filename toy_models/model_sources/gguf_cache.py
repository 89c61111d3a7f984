"""GGUF files as policies: dequantised once, and kept as a Hugging Face folder in the cache.

A GGUF file holds weights, configuration, tokenizer and chat template, as llama.cpp reads them. Here transformers reads
it and every weight becomes a float32 number, exactly the one that its block stands for; nothing is rounded again. The
policy is then like any other: it is trained, saved and resumed in full precision, and a checkpoint of it is an ordinary
folder. Reading a file of 135 million weights takes half a minute, so that the folder is kept in
`$RLVR_DYNAMICS_CACHE/gguf`. Its name holds the file's SHA-256 and the versions of transformers and gguf, which decide
what is read. It takes 4 bytes a weight.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..cache_folder import cache_home, made_once
from .gguf_header import read_header

__all__ = ["ensure_gguf", "gguf_folder", "gguf_version"]

_WHOLE = "model.safetensors"
_SHARDS = "model.safetensors.index.json"


def gguf_folder(path: Path) -> Path:
    """Where the dequantised folder of a GGUF file is, or would be, cached."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_home() / "gguf" / f"{digest[:24]}-transformers{version('transformers')}-gguf{gguf_version()}"


def ensure_gguf(path: Path) -> Path:
    """The dequantised folder of a GGUF file, which is made first if it is not in the cache.

    Several processes may call this at once: one of them reads the file, the others wait for it.

    Args:
        path: The file.

    Returns:
        A Hugging Face folder with model and tokenizer.

    Raises:
        ValueError: It is not a GGUF file, transformers does not read its architecture, or the package gguf is missing.
        OSError: The file cannot be read, or the cache cannot be written.
    """
    architecture = str(read_header(path)["general.architecture"])
    return made_once(
        gguf_folder(path), _is_whole, lambda folder: _dequantise(path, architecture, folder), "GGUF models"
    )


def _is_whole(folder: Path) -> bool:
    """The folder gets its name when everything is in it, so that it is whole if it is there."""
    return (folder / _WHOLE).is_file() or (folder / _SHARDS).is_file()


def gguf_version() -> str:
    """The version of the package gguf; ValueError where it is missing. Loads neither it nor torch."""
    try:
        return version("gguf")
    except PackageNotFoundError as error:
        raise ValueError(
            "expected the package gguf, which reads GGUF files, got none; install it with: pip install "
            "'rlvr-dynamics[gguf]'"
        ) from error


def _dequantise(path: Path, architecture: str, folder: Path) -> None:
    """Write the model and the tokenizer of the file into `folder`."""
    import transformers

    kwargs: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    unpacked: dict[str, Any] = {}
    if (settings := getattr(transformers, "GgufConfig", None)) is not None:  # later versions can keep blocks packed
        unpacked["quantization_config"] = settings(dequantize=True)
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path.parent, **kwargs)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, dtype="float32", **unpacked, **kwargs
        )
        _forget_quantisation(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # transformers raises many types, and KeyError for a tensor that it does not know
        raise ValueError(
            f"cannot read the GGUF file {path}, whose architecture is {architecture!r}, with transformers "
            f"{version('transformers')}: {error}; choose a model of an architecture that transformers reads from GGUF, "
            "or the Hugging Face folder of the same model"
        ) from error


def _forget_quantisation(model: Any) -> None:
    """Take from a model whose weights are all dequantised the mark that refuses to save it."""
    model.hf_quantizer = None
    model.is_quantized = False
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
