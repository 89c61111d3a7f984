"""Shapes of arguments and results against their annotations, while the tests run.

`conftest` installs jaxtyping's import hook with `typechecker`, so that every function of `CHECKED` whose signature
states shapes is held to them. The check comes after the call: a wrong shape must be refused by the function itself,
with its own message, and one that the function accepts in spite of its annotation fails the test. Calls with nested
tensors are left out: two of equal raggedness have sizes that are not equal.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from jaxtyping import AbstractArray

__all__ = ["CHECKED", "typechecker"]

CHECKED = ["analysis.laws", "analysis.objectives", "analysis.token_stats"]
_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of the two functions that jaxtyping makes of each, the one that sees the arguments alone stays unchecked."""
    last = list(inspect.signature(function).parameters.values())[-1:]
    sees_result = last and last[0].kind is inspect.Parameter.KEYWORD_ONLY and last[0].name.startswith("ret")
    if not sees_result or not any(_has_shape(hint) for hint in function.__annotations__.values()):
        return function
    checked = beartype(conf=_CONF)(function)

    @functools.wraps(checked)
    def with_fields(*args: Any, **kwargs: Any) -> Any:
        if any(getattr(value, "is_nested", False) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        result = checked(*args, **kwargs)
        for name, hint in _hints(result).items():
            value = getattr(result, name)
            if not is_bearable(value, hint, conf=_CONF):
                raise TypeError(f"{name}: expected {hint}, got {getattr(value, 'shape', value)}")
        return result

    return with_fields


def _has_shape(hint: Any) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))


def _hints(result: Any) -> dict[str, Any]:
    """Annotations of the fields of a named tuple or a dataclass, which share the sizes of the call's arguments."""
    kind = type(result)
    if isinstance(result, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
    elif dataclasses.is_dataclass(kind) and kind.__module__.startswith(tuple(CHECKED)):
        names = tuple(field.name for field in dataclasses.fields(kind))
    else:
        return {}
    hints = get_type_hints(kind)
    return {name: hints[name] for name in names}
