"""Calls by which the store writes, one of which raises: what a killed process or a failing disk leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for a process that ends here: no handler of the library may catch it."""


def break_at(
    monkeypatch: pytest.MonkeyPatch, at: int, failure: BaseException, *, lasting: bool = False
) -> Callable[[], int]:
    """Let the `at`-th call (from 0) of open for writing, write, fsync, replace or unlink raise, and with `lasting`
    each one after it; returns how many there were. A write that fails has written half.

    fsync itself is left out, which these tests could not tell from its presence.
    """
    calls = 0

    def fails() -> bool:
        nonlocal calls
        calls += 1
        return calls > at if lasting else calls == at + 1

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if fails():
                raise failure
            return function(*args, **kwargs)

        return wrapped

    class File:
        def __init__(self, path: Path) -> None:
            self._file = plain_open(path, "wb")

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes | memoryview) -> None:
            if fails():
                self._file.write(data[: len(data) // 2])
                raise failure
            self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    plain_open = Path.open

    def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "wb":
            return plain_open(path, mode, *args, **kwargs)
        if fails():
            raise failure
        return File(path)

    monkeypatch.setattr(Path, "open", open_)
    for name, function in {"replace": os.replace, "unlink": os.unlink, "fsync": lambda _: None}.items():
        monkeypatch.setattr(os, name, wrap(function))
    return lambda: calls
