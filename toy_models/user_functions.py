"""Functions of the user's own, named by "file.py:name" or "package.module:name"."""

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
    """The file that holds a function "file.py:name" or "package.module:name"; the module is not imported.

    Raises ValueError where `target` has another form (one of the names `known` may have been meant) or nothing is
    found; the message says `kind`.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(
            f"{unknown_name(kind, target, known)}; a function of your own is written "
            "file.py:name or package.module:name"
        )
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"{kind}: expected a Python file, but there is no {path.absolute()}")
        return path
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(
            f"{kind}: there is no module {where!r} to import; write file.py:{name}, or add its folder to PYTHONPATH"
        )
    return Path(spec.origin)


def load_function(target: str, kind: str, known: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function `target`; raises ValueError as `source_file` does, and where its file cannot be imported."""
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
    found: Callable[..., Any] = function
    return found
