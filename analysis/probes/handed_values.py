"""What `step` is handed for the sequences of an update: numbers, groups and their order, checked.

Sequences are counted in the order of the forward passes, of their rows, and of the sequences within a row.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UsageError, at_index, first_index

__all__ = ["group_keys", "in_order", "numbers", "sequence_numbers"]


def in_order(rows: Any, number: int, **values: Any) -> dict[str, Any]:
    """`values`, sequences of `number` entries or None, with entry i at place `rows[i]`; as they are without `rows`.

    >>> in_order([2, 0, 1], 3, rewards=[0.5, 1.0, 2.0], groups=None)
    {'rewards': [1.0, 2.0, 0.5], 'groups': None}
    """
    if rows is None:
        return values
    places = rows.reshape(-1).tolist() if isinstance(rows, Tensor) else list(rows)
    if sorted(places) != list(range(number)):
        raise UsageError(
            f"rows: expected each of 0 … {number - 1} once, the sequences of this update, got {places}; say to which "
            "sequence each entry belongs"
        )
    entry_at = {place: entry for entry, place in enumerate(places)}
    out: dict[str, Any] = {}
    for name, given in values.items():
        if given is not None and len(given) != number:
            raise UsageError(f"rows: expected {number} entries of {name}, one for each of rows, got {len(given)}")
        entries = given.detach().cpu() if isinstance(given, Tensor) else given
        out[name] = None if entries is None else [entries[entry_at[place]] for place in range(number)]
    return out


def group_keys(groups: Tensor | Sequence[Any] | None, ids: list[str], chosen: list[bool]) -> list[tuple[Any, str]]:
    """What tells the group of each sequence from the others, also those of other ranks: its name and its prompt.

    Without `groups` the sequences of a prompt are one group. A prompt that has a multiple of the sequences that every
    other prompt has is warned of: it was drawn twice.

    >>> group_keys(["b", "a", "b"], ["p", "p", "p"], [True] * 3)
    [('b', 'p'), ('a', 'p'), ('b', 'p')]
    """
    names: list[Any] = ids
    if groups is None:
        _warn_of_merged_groups(ids)
    else:
        names = groups.reshape(-1).tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names) != len(ids):
        raise UsageError(f"groups: expected {len(ids)} names or numbers, one for each sequence, got {len(names)}")
    prompts: dict[Any, tuple[int, str]] = {}
    for place, (name, prompt) in enumerate(zip(names, ids, strict=True)):
        first, other = prompts.setdefault(name, (place, prompt)) if chosen[place] else (place, prompt)
        if other != prompt:
            raise UsageError(
                f"groups: expected one prompt in each group, got two in {name!r}: sequences {first} and {place}; count "
                "sequences in the order of the forward passes, and of the rows within them"
            )
    return [(name, prompts[name][1] if name in prompts else "") for name in names]


def _warn_of_merged_groups(ids: list[str]) -> None:
    sizes = Counter(ids)
    least = min(sizes.values(), default=0)
    larger = [(name, size) for name, size in sizes.items() if size > least]
    if least > 1 and larger and all(size % least == 0 for size in sizes.values()):
        name, size = larger[0]
        warnings.warn(
            f"step: expected as many sequences of each prompt, got {size} in a group of prompt {name} and {least} in "
            f"others: a prompt that was drawn {size // least} times counts as one group. Give groups= to tell them "
            "apart",
            stacklevel=2,
        )


def sequence_numbers(values: Sequence[Tensor | Sequence[float]] | None, lengths: list[int]) -> list[np.ndarray] | None:
    """log π_old of each sequence, an array of as many numbers as its response has tokens that count."""
    if values is None:
        return None
    if len(values) != len(lengths):
        raise UsageError(f"old_log_probs: expected {len(lengths)} sequences, one for each response, got {len(values)}")
    out = []
    for place, (given, length) in enumerate(zip(values, lengths, strict=True)):
        array = numbers(f"old_log_probs[{place}]", given, length, "token of the response that counts")
        assert array is not None
        out.append(array)
    return out


def numbers(
    name: str,
    values: Tensor | Sequence[float] | None,
    n: int,
    each: str = "sequence",
) -> np.ndarray | None:
    """(n,) float64, one for each of what `each` says; UsageError where there are others, or one is not finite."""
    if values is None:
        return None
    try:
        array = np.asarray(
            values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values, dtype=np.float64
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected {n} numbers, one for each {each}, got {values!r}") from error
    if array.size != n or array.ndim > 2:
        raise UsageError(
            f"{name}: expected {n} numbers, one for each {each} in the order of the passes, got shape {array.shape}"
        )
    array = array.reshape(-1)
    if not np.isfinite(array).all():
        index = first_index(~np.isfinite(array))
        raise UsageError(f"{name}: expected finite numbers, got {array[index]}{at_index(index)}")
    return array
