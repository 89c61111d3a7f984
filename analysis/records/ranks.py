"""Several processes that write one run folder: each writes its own files, rank 0 says which of them are committed.

Nothing here knows how processes talk to each other: that is `gather`, a collective call which takes an object of each
rank and gives all of them to every rank, such as `torch.distributed.all_gather_object`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import UsageError

__all__ = ["ALONE", "Ranks"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """The processes that write one run folder, as one of them sees them.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
        gather: takes an object of this rank and returns those of all ranks, in their order. Every rank calls it equally
            often. It raises where another process has died. Not called where `count` is 1.

    Raises:
        UsageError: `rank` is not below `count`, or `gather` is missing where there are several.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise UsageError(f"rank: expected a number from 0 to {self.count - 1}, got {self.rank}")
        if self.count > 1 and self.gather is None:
            raise UsageError(f"gather: expected a collective call for {self.count} ranks, got None")

    def all(self, value: _T) -> list[_T]:
        """The values of all ranks, in their order."""
        return [value] if self.gather is None or self.count == 1 else self.gather(value)

    def agree(self, action: Callable[[], _T]) -> list[_T]:
        """What `action` returns on each rank; where it fails on one of them, every rank raises, and none waits.

        Args:
            action: called once, on every rank, before the ranks meet; it makes no collective call itself.

        Returns:
            The values in the order of the ranks.

        Raises:
            Exception: what `action` raised on this rank, otherwise an exception of the same meaning (UsageError,
                OSError, or RuntimeError for anything else) that names the rank on which it failed.

        >>> Ranks().agree(lambda: 3)
        [3]
        """
        if self.gather is None or self.count == 1:
            return [action()]
        failure: Exception | None = None
        value: Any = None
        try:
            value = action()
        except Exception as error:
            failure = error
        outcomes = self.gather((value, None if failure is None else _told(failure)))
        if failure is not None:
            raise failure
        for rank, (_, told) in enumerate(outcomes):
            if told is not None:
                raise _raised_elsewhere(rank, *told)
        return [value for value, _ in outcomes]

    def here(self, action: Callable[[], _T]) -> _T:
        """What `action` returns on this rank, which need not be pickled; otherwise as `agree`.

        >>> Ranks().here(lambda: 3)
        3
        """
        values: list[_T] = []
        self.agree(lambda: values.append(action()))
        return values[0]


ALONE = Ranks()


def _told(failure: Exception) -> tuple[str, int | None, str]:
    """An exception as plain values, since not every one can be pickled."""
    if isinstance(failure, UsageError):
        return "usage", None, str(failure)
    if isinstance(failure, OSError):
        return "os", failure.errno, failure.strerror or str(failure)
    return "other", None, f"{type(failure).__name__}: {failure}"


def _raised_elsewhere(rank: int, kind: str, number: int | None, message: str) -> Exception:
    text = f"rank {rank}: {message}"
    if kind == "os":
        return OSError(number, text) if number is not None else OSError(text)
    return UsageError(text) if kind == "usage" else RuntimeError(text)
