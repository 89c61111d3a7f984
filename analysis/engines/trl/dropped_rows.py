"""Leaving rows without a weight out of the buffered microbatches of a TRL trainer, before they are cut.

A generation batch of TRL is S microbatches of the same number of rows, and an optimiser step takes GA of them. Dropping
rows closes the gaps: the kept rows fill the microbatches from the first, the last one that has any may be smaller, and
the rest hold one masked row, which has no tokens and hence no gradient. The released code of PSR and NSR does the same
(Zhu et al., arXiv 2506.01347): fewer optimiser steps have rows, and the normaliser counts kept tokens alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ragged_gather", "repacked", "tokens_of_steps"]

Microbatch = dict[str, Any]


def repacked(parts: Sequence[Microbatch], kept: Tensor) -> list[Microbatch]:
    """The microbatches of one generation batch with the kept rows alone, as many and at most as large as before.

    Args:
        parts: the microbatches. Tensors and lists whose first axis counts the rows are cut, anything else is passed on.
        kept: bool (rows,), over all microbatches in their order.

    Returns:
        As many microbatches; one without a kept row holds a single row whose `completion_mask` and `advantages` are 0.

    >>> part = {"completion_mask": torch.ones(2, 3), "advantages": torch.tensor([0.0, 1.0])}
    >>> first, second = repacked([part, part], torch.tensor([False, True, False, True]))
    >>> first["advantages"].tolist(), second["completion_mask"].tolist()
    ([1.0, 1.0], [[0.0, 0.0, 0.0]])
    """
    size = len(parts[0]["completion_mask"])
    whole = {key: _joined([part[key] for part in parts], size) for key in parts[0]}
    rows = kept.nonzero()[:, 0]
    chunks = list(rows.split(size)) if len(rows) else []
    filled = [_rows_of(whole, chunk, len(kept)) for chunk in chunks]
    return filled + [_masked(whole, len(kept)) for _ in range(len(parts) - len(filled))]


def tokens_of_steps(parts: Sequence[Microbatch], accumulation: int) -> Tensor:
    """int64 (S/GA,): tokens of the policy in each optimiser step of this process."""
    counts = []
    for part in parts:
        mask = part["completion_mask"]
        counts.append((mask * part["tool_mask"] if part.get("tool_mask") is not None else mask).sum())
    return torch.stack(counts).long().view(-1, accumulation).sum(1)


@contextlib.contextmanager
def ragged_gather(accelerator: Any) -> Iterator[None]:
    """Let `accelerator.gather` take tensors of another length on each process, shorter ones filled up with NaN.

    TRL gathers one number of each row for its logs, and dropping leaves another number of rows on each process. Its
    own reductions of them leave NaN out.
    """
    if accelerator.num_processes == 1:
        yield
        return
    gather = accelerator.gather

    def filled_up(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point():
            value = accelerator.pad_across_processes(value, dim=0, pad_index=float("nan"))
        return gather(value)

    accelerator.gather = filled_up
    try:
        yield
    finally:
        del accelerator.gather


def _joined(values: list[Any], size: int) -> Any:
    first = values[0]
    if isinstance(first, Tensor) and first.ndim > 0 and len(first) == size:
        return torch.cat(values)
    if isinstance(first, list) and len(first) == size:
        return [item for value in values for item in value]
    return first


def _rows_of(whole: Microbatch, rows: Tensor, count: int) -> Microbatch:
    chosen: Microbatch = {}
    for key, value in whole.items():
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == count:
            chosen[key] = value[rows.to(value.device)]
        elif isinstance(value, list) and len(value) == count:
            chosen[key] = [value[row] for row in rows.tolist()]
        else:
            chosen[key] = value
    return chosen


def _masked(whole: Microbatch, count: int) -> Microbatch:
    row = _rows_of(whole, torch.zeros(1, dtype=torch.long), count)
    for key in ("completion_mask", "advantages"):
        row[key] = torch.zeros_like(row[key])
    return row
