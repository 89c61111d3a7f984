"""A `repr` that fits on a line or two for objects that hold tensors, arrays or tables: their shape instead of them."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["short_repr", "short_text"]

C = TypeVar("C", bound=type)
_MOST_ENTRIES = 6  # of a list or dictionary that are written out
_MOST_TEXT = 60  # characters of a text or of another object's own repr


def short_repr(cls: C) -> C:
    """Give a dataclass or a named tuple a `repr` with the shape of what is large.

    Args:
        cls: the class; put this decorator above `dataclass`.

    Example:
        >>> import numpy as np
        >>> @short_repr
        ... @dataclasses.dataclass
        ... class Pair:
        ...     name: str
        ...     values: np.ndarray
        >>> Pair("a", np.zeros((3, 4)))
        Pair(name='a', values=array(3, 4) float64)
    """
    cls.__repr__ = _repr  # type: ignore[method-assign,assignment]
    return cls


def _repr(self: Any) -> str:
    if dataclasses.is_dataclass(self):
        names = [field.name for field in dataclasses.fields(self) if field.repr]
    else:
        names = list(self._fields)
    values = ", ".join(f"{name}={short_text(getattr(self, name))}" for name in names)
    return f"{type(self).__qualname__.split('.')[-1]}({values})"


def short_text(value: Any) -> str:
    """A value as text of a bounded length.

    >>> short_text([1, 2]), short_text(list(range(9))), short_text({"a": 1.5}), short_text("x" * 99)[:8]
    ('[1, 2]', 'list of 9', "{'a': 1.5}", "'xxxxxxx")
    """
    shape = getattr(value, "shape", None)
    kind = type(value)
    if shape is not None and hasattr(value, "columns"):
        return f"{kind.__name__}({shape[0]:,} rows, {shape[1]} columns)"
    if shape is not None and hasattr(value, "dtype"):
        if not len(shape):
            return repr(value)  # a single number
        name = (
            "tensor"
            if kind.__module__.startswith("torch")
            else "array"
            if kind.__name__ == "ndarray"
            else kind.__name__
        )
        return f"{name}({', '.join(map(str, shape))}) {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, str):
        return repr(value if len(value) <= _MOST_TEXT else value[: _MOST_TEXT - 1] + "…")
    if isinstance(value, Mapping) and kind in (dict, types.MappingProxyType):
        if len(value) > _MOST_ENTRIES:
            return f"{kind.__name__} of {len(value)}"
        return "{" + ", ".join(f"{short_text(key)}: {short_text(item)}" for key, item in value.items()) + "}"
    if kind in (list, tuple):
        if len(value) > _MOST_ENTRIES:
            return f"{kind.__name__} of {len(value)}"
        first, last = ("[", "]") if kind is list else ("(", ",)" if len(value) == 1 else ")")
        return first + ", ".join(map(short_text, value)) + last
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    text = re.sub(r"\s+", " ", repr(value))
    if vars(kind).get("__repr__") is _repr or len(text) <= _MOST_TEXT:
        return text
    return text[: _MOST_TEXT - 1] + "…"
