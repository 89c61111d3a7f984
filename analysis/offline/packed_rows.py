"""Rows of training data that hold several sequences, as packing makes them: cut where the next sequence begins.

What tells the sequences of a row apart is the first of these that it has:

    seq_lengths                          their lengths (TRL's packed data sets)
    cu_seqlens, cu_seq_lens_q            offsets from 0 on
    seq_idx, sequence_ids                the number of each token's sequence
    position_ids                         positions that do not rise where another begins
    attention_mask                       1, 2, 3, … by sequence

Such a row read as one would be a rollout whose first tokens are of another text than its last ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

__all__ = ["sequences_of_row"]

_LENGTHS = ("seq_lengths", "sequence_lengths")
_OFFSETS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens")
_NUMBERS = ("seq_idx", "sequence_ids")

Row = Mapping[str, Any]


def sequences_of_row(row: Row, length: int) -> list[dict[str, Any]]:
    """The row cut into its sequences; a list of the row alone where it holds one.

    Lists with an entry for each of the `length` tokens are cut, and lists with one for each sequence are handed out.

    Raises:
        ValueError: there is one reward for several sequences, or lengths and offsets do not fit the row.

    >>> row = {"input_ids": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1], "rewards": [1.0, 0.0]}
    >>> [(part["input_ids"], part["rewards"]) for part in sequences_of_row(row, 4)]
    [([5, 6], 1.0), ([7, 8], 0.0)]
    """
    starts = _starts(row, length)
    if len(starts) < 2:
        return [dict(row)]
    cuts = [slice(first, end) for first, end in pairwise([*starts, length])]
    parts: list[dict[str, Any]] = []
    for place, cut in enumerate(cuts):
        part = {}
        for name, value in row.items():
            if isinstance(value, list) and len(value) == length:
                part[name] = value[cut]
            elif isinstance(value, list) and len(value) == len(cuts):
                part[name] = value[place]
            elif name in ("reward", "rewards") and value is not None:
                raise ValueError(f"expected a reward for each of its {len(cuts)} packed sequences, got {value}")
            else:
                part[name] = value
        parts.append(part)
    return parts


def _starts(row: Row, length: int) -> list[int]:
    """Where the sequences of a row begin, from 0 on."""
    for name in _LENGTHS:
        if isinstance(lengths := row.get(name), list):
            return _checked([0, *accumulate(lengths)], name, length)
    for name in _OFFSETS:
        if isinstance(offsets := row.get(name), list):
            return _checked(offsets, name, length)
    for name in _NUMBERS:
        if isinstance(numbers := row.get(name), list) and len(numbers) == length:
            return [0, *(i for i in range(1, length) if numbers[i] != numbers[i - 1])]
    positions, mask = row.get("position_ids"), row.get("attention_mask")
    if isinstance(positions, list) and len(positions) == length and all(isinstance(i, int) for i in positions):
        own = mask if isinstance(mask, list) and len(mask) == length else [1] * length
        return [0, *(i for i in range(1, length) if own[i] and own[i - 1] and positions[i] <= positions[i - 1])]
    if isinstance(mask, list) and len(mask) == length and max(mask, default=0) > 1:
        return [0, *(i for i in range(1, length) if mask[i] != mask[i - 1])]
    return [0]


def _checked(offsets: list[int], name: str, length: int) -> list[int]:
    """Offsets without the last one, which is the end."""
    rises = all(before < after for before, after in pairwise(offsets))
    if not offsets or offsets[0] != 0 or not rises or offsets[-1] > length:
        raise ValueError(f"expected {name} that add up to at most {length} tokens, got {offsets}")
    return [offset for offset in offsets if offset < length]
