"""The header of a GGUF file: what it says of its model, read without torch and without the package gguf.

A GGUF file begins with the letters GGUF, its version, the numbers of tensors and of entries, and then the entries: a
key, a type and a value each (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["GGUF_SUFFIX", "is_gguf", "read_header"]

GGUF_SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # version 1 had shorter counts, and is not written any more
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST = 1 << 24  # bytes of a string; a longer one is a file that is damaged


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_header(path: Path) -> dict[str, Any]:
    """The entries of a GGUF file by key; lists, such as the tokens of the vocabulary, are passed over.

    Args:
        path: The file.

    Returns:
        Numbers, truth values and strings.

    Raises:
        ValueError: It is not a GGUF file, it is one of another version or of the other byte order, or it is damaged.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(
                f"expected a GGUF file, got {path}, which does not begin with the letters GGUF; choose a file that "
                "llama.cpp reads, or a folder with a Hugging Face model"
            )
        try:
            version = _number(file, "I")
            if version not in _VERSIONS:
                raise ValueError(
                    f"expected a GGUF file of version {' or '.join(map(str, _VERSIONS))}, got version {version} in "
                    f"{path}; convert the model again with llama.cpp"
                )
            _number(file, "Q")  # tensors
            entries: dict[str, Any] = {}
            for _ in range(_number(file, "Q")):
                key = _text(file)
                value = _value(file, _number(file, "I"))
                if value is not None:
                    entries[key] = value
        except (struct.error, KeyError, UnicodeDecodeError, EOFError) as error:
            raise ValueError(
                f"expected a whole GGUF file, got {path}, whose header breaks off or is damaged; download it again"
            ) from error
    if not isinstance(entries.get("general.architecture"), str):
        raise ValueError(f"expected general.architecture in the header of {path}, got none; convert the model again")
    return entries


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _NUMBERS[kind])
    kind, count = _number(file, "I"), _number(file, "Q")
    if kind in _NUMBERS:
        file.seek(count * struct.calcsize(_NUMBERS[kind]), 1)
    else:
        for _ in range(count):
            _value(file, kind)
    return None


def _number(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "Q")
    if length > _LONGEST:
        raise EOFError
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data.decode()
