"""A share of the rollouts of a file, for traces that several programs make apart from each other.

Groups stay whole, since objectives compare their responses. They go, in the order of the file, to the share that has
the fewest tokens so far, so that every program finds the same shares without talking to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toy_models.spooled import Spooled

from ..errors import UsageError
from .tokenization import Encoded

__all__ = ["of_share", "parse_share"]


def parse_share(text: str) -> tuple[int, int]:
    """(number, count) of a share that is written "number/count", numbers from 0.

    >>> parse_share("3/16")
    (3, 16)
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UsageError(f"share: expected NUMBER/COUNT with numbers from 0, such as 0/16 to 15/16, got {text!r}")
    return int(number), int(count)


def of_share(items: Sequence[Encoded], number: int, count: int) -> Sequence[Encoded]:
    """The rollouts of one share, in their order; UsageError where there are fewer groups than shares."""
    tokens: dict[tuple[int, int], int] = {}
    for item in items:
        tokens[_group(item)] = tokens.get(_group(item), 0) + item.length
    if len(tokens) < count:
        raise UsageError(
            f"share: expected at most {len(tokens)} shares, one for each group of responses, got {count}; ask for fewer"
        )
    load, owner = [0] * count, dict[Any, int]()
    for group, size in tokens.items():
        owner[group] = load.index(min(load))
        load[owner[group]] += size
    return Spooled(item for item in items if owner[_group(item)] == number)


def _group(item: Encoded) -> tuple[int, int]:
    return item.rollout.step, item.group
