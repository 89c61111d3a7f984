"""Rows of a file of `torch.save`: a list of dicts, a dict with such a list, a dict of columns; no code is run.

Loading is `torch.load(weights_only=True)`, which takes tensors, numbers, texts, lists and dicts, and refuses whatever
else a pickle can hold. Of a dict with a list of rows each row has the other entries as `file`: the dumps of slime name
the step there.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .plain_values import WRAPPERS, plain, rows_of_columns

__all__ = ["is_torch_file", "torch_documents"]


def is_torch_file(path: Path) -> bool:
    """Whether an archive is one of torch.save, by what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2] == "data.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def torch_documents(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of the file as plain data. Raises ValueError where it holds other objects or no rows."""
    import torch

    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        other = f"an object of {kind[1]}" if kind else "another object"
        raise ValueError(
            f"{path} cannot be read: expected tensors, lists, dicts, numbers and texts, got {other}, which is not "
            "loaded, since that may run code; load it with the program that wrote it and save plain rows"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    rows: Any = document
    beside: Mapping[str, Any] = {}
    if isinstance(document, Mapping):
        lists = [name for name in WRAPPERS if _are_rows(document.get(name))]
        if len(lists) == 1:
            rows = document[lists[0]]
            beside = {"file": {name: value for name, value in document.items() if name != lists[0]}}
        else:
            columns = rows_of_columns(plain(document))
            rows = [document] if columns is None else columns
    if not _are_rows(rows):
        raise ValueError(
            f"{path} cannot be read: expected a list of dicts, or a dict, got {type(document).__name__}; save the rows "
            "as a list of dicts"
        )
    beside = plain(beside)
    for row in rows:
        yield {**beside, **plain(row)}


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
