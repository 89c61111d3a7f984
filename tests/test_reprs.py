"""Every public object prints as something that a reader can use: no address, no array in full."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis

LINES, CHARACTERS = 24, 2000  # of a screen
ARRAYS = ("ndarray", "Tensor", "DataFrame", "Float[", "Int[", "Bool[", "Shaped[", "Array")
# Protocols are never an object of their own, errors print their message, trainers are those of another library.
NOT_RESULTS = {"Recorded", "ObjectiveTrainer"}


def public_classes() -> Iterator[tuple[str, type]]:
    """Each class that `analysis` or one of its public packages names, once."""
    seen: set[type] = set()
    for name in analysis.__all__:
        found = getattr(analysis, name)
        within = [(name, found)]
        if isinstance(found, types.ModuleType):
            within = [
                (f"{name}.{inner}", getattr(found, inner)) for inner in importlib.import_module(found.__name__).__all__
            ]
        for path, thing in within:
            if inspect.isclass(thing) and thing not in seen and not issubclass(thing, BaseException):
                seen.add(thing)
                yield path, thing


CLASSES = dict(public_classes())


def fields_of(cls: type) -> dict[str, str]:
    """Name -> annotation as text, of a dataclass or a named tuple."""
    if dataclasses.is_dataclass(cls):
        return {field.name: str(field.type) for field in dataclasses.fields(cls) if field.repr}
    return {name: str(cls.__annotations__.get(name, "")) for name in getattr(cls, "_fields", ())}


def with_large_arrays(cls: type) -> Any:
    """An object whose fields for arrays hold large ones; the others hold a word."""
    large = np.random.default_rng(0).normal(size=(50, 50))
    values: dict[str, Any] = {
        name: (pd.DataFrame(large) if "DataFrame" in text else large)
        if any(kind in text for kind in ARRAYS)
        else {}
        if "dict" in text
        else "word"
        for name, text in fields_of(cls).items()
    }
    if issubclass(cls, tuple):
        return cls._make(values.values())  # type: ignore[attr-defined]
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def test_the_walk_finds_what_users_hold() -> None:
    names = {cls.__name__ for cls in CLASSES.values()}
    assert {"Run", "Experiment", "RolloutView", "TokenView", "TraceData", "Summary", "Recipe", "Attachment"} <= names


@pytest.mark.parametrize("path", CLASSES)
def test_no_object_prints_as_an_address(path: str) -> None:
    cls = CLASSES[path]
    if cls.__name__ in NOT_RESULTS:
        return
    assert cls.__repr__ is not object.__repr__, f"{path} has no repr of its own"


@pytest.mark.parametrize(
    "path",
    [path for path, cls in CLASSES.items() if any(kind in text for text in fields_of(cls).values() for kind in ARRAYS)],
)
def test_no_object_prints_its_arrays(path: str) -> None:
    text = repr(with_large_arrays(CLASSES[path]))
    assert len(text.splitlines()) <= LINES, path
    assert len(text) <= CHARACTERS, path
