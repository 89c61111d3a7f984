"""Functions that a user names as "file.py:name" or "package.module:name"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .messages import unknown_name

__all__ = ["load_function", "source_file"]


def source_file(target: str, kind: str, known: tuple[str, ...] = ()) -> Path:
    """The file that holds a function; its module is not imported.

    Args:
        target: The function as "file.py:name" or "package.module:name".
        kind: What the function is for, such as "verifier"; error messages begin with it.
        known: Built-in names that may have been meant by a target of another form.

    Raises:
        ValueError: The target has another form, or the file or module does not exist.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(
            f"{unknown_name(kind, target, known)}; a function of yours is written file.py:name or package.module:name"
        )
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"{kind}: expected an existing Python file, got {path.absolute()}")
        return path
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(
            f"{kind}: expected a module that can be imported, got {where!r}; write file.py:{name}, or add its "
            "folder to PYTHONPATH"
        )
    return Path(spec.origin)


def load_function(target: str, kind: str, known: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function that is named by a target.

    Args:
        target: See `source_file`.
        kind: See `source_file`.
        known: See `source_file`.

    Raises:
        ValueError: As for `source_file`; or the file cannot be imported or has no such function.
    """
    path = source_file(target, kind, known)
    where, _, name = target.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"_{kind}_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module.__name__] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except Exception as error:
        raise ValueError(f"{kind}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{unknown_name(kind, name, public)} in {path}")
    result: Callable[..., Any] = function
    return result
