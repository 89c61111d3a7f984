"""The code of an object that a user passes, as a digest that is the same in every session of one version of Python.

Counted are the methods of its class and of the classes that it comes from, what these call and read in modules that are
neither installed nor ours (functions, classes, constants), and the public numbers and texts of the object itself. Code
is taken as Python compiled it, without comments and line numbers, since the source of a class in a notebook cell is not
available before Python 3.13. Not counted are files that it opens, and what it reaches by computed names.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["object_digest"]

_ROOT = Path(__file__).resolve().parents[2]
_PLAIN = (str, bytes, int, float, complex, type(None))
_PARTS = ("__func__", "fget", "func")  # of static methods, properties and cached properties


def object_digest(thing: Any) -> str:
    """SHA-256 over the code of an object's class, over what that code uses, and over the object's plain attributes."""
    seen: dict[str, Any] = {}
    for cls in type(thing).__mro__:
        if cls.__module__ not in ("builtins", "typing"):
            _add_class(cls, seen)
    state = {
        name: _plain(value)
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if not name.startswith("_") and _is_plain(value)
    }
    return hashlib.sha256(repr((sorted(seen.items()), sorted(state.items()))).encode()).hexdigest()


def _add_class(cls: type, seen: dict[str, Any]) -> None:
    name = f"{cls.__qualname__}:"
    if name in seen:
        return
    seen[name] = [
        (key, _plain(member))
        for key, member in sorted(vars(cls).items())
        if isinstance(member, str | int | float | tuple) and _is_plain(member) and not key.startswith("__")
    ]
    for key, member in sorted(vars(cls).items()):
        for part in (member, *(getattr(member, inner, None) for inner in _PARTS)):
            if isinstance(part, FunctionType):
                seen[f"{name}{key}"] = _code(part.__code__)
                _add_used(part, seen)


def _add_used(function: FunctionType, seen: dict[str, Any]) -> None:
    """What the function's code names among the globals of its module, where that is the user's own."""
    if not _is_own(function.__module__):
        return
    names = set(_names(function.__code__))
    scopes: list[Mapping[str, Any]] = [function.__globals__]
    modules = [value for name in names if isinstance(value := function.__globals__.get(name), ModuleType)]
    scopes += [vars(module) for module in modules if _is_own(module.__name__)]
    for scope in scopes:
        for name in sorted(names & scope.keys()):
            value = scope[name]
            if isinstance(value, FunctionType) and _is_own(value.__module__):
                if (key := f"{value.__qualname__}()") not in seen:
                    seen[key] = _code(value.__code__)
                    _add_used(value, seen)
            elif isinstance(value, type) and _is_own(value.__module__):
                _add_class(value, seen)
            elif _is_plain(value) or (name.isupper() and _is_constant(value)):
                seen[f"{name}="] = _plain(value)


def _is_own(module: str | None) -> bool:
    """Whether a module is neither installed, nor part of Python, nor of this library."""
    name = module or "__main__"
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or file is None:
        return name not in sys.builtin_module_names
    path = Path(file).resolve()
    installed = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [_ROOT / "analysis", _ROOT / "toy_models"]
    return not any(path.is_relative_to(folder.resolve()) for folder in (*installed, *ours))


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | frozenset) and all(map(_is_plain, value)))


def _is_constant(value: Any) -> bool:
    """Lists, sets and dicts of plain values, which count under a name in capitals: others may be caches."""
    if isinstance(value, Mapping):
        return all(_is_plain(key) and (_is_plain(item) or _is_constant(item)) for key, item in value.items())
    return isinstance(value, list | set) and all(_is_plain(item) or _is_constant(item) for item in value)


def _plain(value: Any) -> Any:
    """The value with sets in a fixed order."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return [(repr(key), _plain(item)) for key, item in value.items()]
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code(code: CodeType) -> Any:
    """What a function does, as plain values."""
    constants = [
        _code(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in code.co_consts
    ]
    return code.co_code.hex(), code.co_names, constants
