"""Sequences that lie in a temporary file: files of more rows than memory holds are read more than once.

Values are pickled by the block. The last block, and the one that was read last, are in memory, so that a short sequence
never touches the disk and a walk from one end to the other reads each block once. The file has no name and is gone with
the sequence.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Generic, TypeVar, overload

__all__ = ["Mapped", "Spooled"]

BLOCK = 256  # values

S = TypeVar("S")
T = TypeVar("T")


class Spooled(Sequence[T]):
    """Values that can be pickled, in their order; they come back as equal ones, not as the same.

    Args:
        values: The first of them.

    >>> names = Spooled(str(i) for i in range(3000))
    >>> len(names), names[-1], names[255:258]
    (3000, '2999', ['255', '256', '257'])
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._tail: list[T] = []
        self._places: list[int] = []  # where in the file each full block begins
        self._file: IO[bytes] | None = None
        self._held: tuple[int, list[T]] = (-1, [])  # number and values of the block that was read last
        self.extend(values)

    def append(self, value: T) -> None:
        """Add a value at the end."""
        self._tail.append(value)
        if len(self._tail) == BLOCK:
            self._write()

    def extend(self, values: Iterable[T]) -> None:
        """Add values at the end."""
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return BLOCK * len(self._places) + len(self._tail)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spooled | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it can grow

    def __repr__(self) -> str:
        return f"Spooled({len(self):,} values)"

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} of {len(self)} values")
        return self._block(place // BLOCK)[place % BLOCK]

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._places)):
            yield from self._block(number)
        yield from self._tail

    def _block(self, number: int) -> list[T]:
        if number == len(self._places):
            return self._tail
        if self._held[0] != number:
            assert self._file is not None
            self._file.seek(self._places[number])
            self._held = number, pickle.load(self._file)
        return self._held[1]

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="rlvr-dynamics-")  # noqa: SIM115  # it lives as long as the sequence
        self._places.append(self._file.seek(0, 2))
        pickle.dump(self._tail, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._tail = []


class Mapped(Sequence[T], Generic[S, T]):
    """What a function gives for each of some values, worked out whenever it is asked for.

    >>> doubled = Mapped(range(3), lambda value: 2 * value)
    >>> doubled[1], list(doubled)
    (2, [0, 2, 4])
    """

    def __init__(self, values: Sequence[S], function: Callable[[S], T]) -> None:
        self._values, self._function = values, function

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._function(value) for value in self._values[index]]
        return self._function(self._values[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._function, self._values)
