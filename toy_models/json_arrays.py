"""The objects of a JSON array one after another, so that a file of many need not be in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["UnusualArray", "array_objects"]

CHUNK = 1 << 20  # characters that are read at a time
_SPACE = " \t\r\n"


class UnusualArray(ValueError):
    """The text is not one array of objects; whoever reads it as a whole can say what it is."""


def array_objects(text: IO[str]) -> Iterator[dict[str, Any]]:
    """The objects of the array that a text is.

    Args:
        text: opened at its beginning.

    Raises:
        UnusualArray: it is anything else, from the first place on where that shows.

    >>> import io
    >>> list(array_objects(io.StringIO('[{"a": 1}, {"a": 2}]')))
    [{'a': 1}, {'a': 2}]
    """
    source = _Window(text)
    if source.next_character() != "[":
        raise UnusualArray("expected an array")
    source.step()
    while True:
        yield source.next_object()
        mark = source.next_character()
        source.step()
        if mark == "]":
            break
        if mark != ",":
            raise UnusualArray("expected a comma or the end of the array")
    if source.next_character():
        raise UnusualArray("expected nothing after the array")


class _Window:
    """The part of a text that is being read."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._decoder = text, json.JSONDecoder()
        self._held, self._place = text.read(CHUNK).removeprefix("\ufeff"), 0

    def next_character(self) -> str:
        """The next one that is no white space, empty at the end; `step` goes past it."""
        while True:
            while self._place < len(self._held):
                if self._held[self._place] not in _SPACE:
                    return self._held[self._place]
                self._place += 1
            if not self._more():
                return ""

    def step(self) -> None:
        self._place += 1

    def next_object(self) -> dict[str, Any]:
        if self.next_character() != "{":
            raise UnusualArray("expected an object")
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._held, self._place)
            except (json.JSONDecodeError, RecursionError) as error:  # its end may not have been read yet
                if not self._more(len(self._held) - self._place):
                    raise UnusualArray("expected valid JSON") from error
                continue
            assert isinstance(value, dict)
            return value

    def _more(self, least: int = 0) -> bool:
        """Read on, as much again as what is held of an object, so that a long one is not decoded too often."""
        read = self._text.read(max(CHUNK, least))
        self._held, self._place = self._held[self._place :] + read, 0
        return bool(read)
