"""Which rollouts go through the model together: windows in the file's order, and in each window batches by length.

A window is what is committed together at the earliest. Within it rollouts are sorted by length, so that little is spent
on padding, and fill batches up to a budget of tokens, padding counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

__all__ = ["batches_of", "windows"]

_BATCHES = 8  # budgets in a window


class _Sized(Protocol):
    @property
    def length(self) -> int: ...


T = TypeVar("T", bound=_Sized)


def windows(items: Sequence[T], start: int, budget: int) -> Iterator[tuple[int, list[T]]]:
    """(end, items[begin:end]) of successive windows from `start`, each of some budgets of tokens, or of one item."""
    begin, tokens = start, 0
    for at in range(start, len(items)):
        tokens += items[at].length
        if at > begin and tokens > _BATCHES * budget:
            yield at, list(items[begin:at])
            begin, tokens = at, items[at].length
    if begin < len(items):
        yield len(items), list(items[begin:])


def batches_of(items: Sequence[T], budget: int) -> list[list[T]]:
    """The items by falling length in batches whose count times greatest length is at most `budget`, or of one item.

    >>> from types import SimpleNamespace
    >>> sized = [SimpleNamespace(length=n) for n in (3, 9, 4, 1)]
    >>> [[item.length for item in batch] for batch in batches_of(sized, 9)]
    [[9], [4, 3], [1]]
    """
    batches: list[list[T]] = []
    for item in sorted(items, key=lambda item: -item.length):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
