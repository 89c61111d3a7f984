"""Sampling of which at most so many tokens are in memory at a time.

A response depends on its prompt and its own uniforms alone (`toy_models.sampling`), so a large batch may be sampled in
parts: the responses are the same, and the key-value cache is that of one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from toy_models.sampling import Samples, sample

__all__ = ["bounded_sample"]


def bounded_sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | None,
    group_size: int,
    max_new_tokens: int,
    pad_id: int,
    uniforms: Tensor | None = None,
    **settings: Any,
) -> Samples:
    """`sample` of at most `max_tokens` tokens at a time, prompts and longest responses with their padding.

    Equals `sample` on all prompts, up to rounding. A part holds whole groups where a group is within the bound, else
    some responses to one prompt, and one response at least. Prompts of like lengths go together.

    Args:
        model, prompts, group_size, max_new_tokens, pad_id, uniforms, settings: as of `toy_models.sampling.sample`.
        max_tokens: bound of rows × (longest prompt + max_new_tokens); None samples everything at once.

    Returns:
        The responses, in the order of the prompts.

    Raises:
        ValueError, FloatingPointError: as `sample`.
    """
    fixed = {"max_new_tokens": max_new_tokens, "pad_id": pad_id, **settings}
    rows = len(prompts) * group_size
    if max_tokens is None or rows * (max(map(len, prompts), default=0) + max_new_tokens) <= max_tokens:
        return _sampled(model, prompts, group_size, uniforms, fixed)
    drawn: list[tuple[list[int], Samples]] = []
    for some, size, numbers in _parts([len(prompt) for prompt in prompts], group_size, max_new_tokens, max_tokens):
        own = None if uniforms is None else uniforms[numbers]
        drawn.append((numbers, _sampled(model, [prompts[i] for i in some], size, own, fixed)))
    return _joined(drawn, rows, pad_id)


def _sampled(
    model: Any, prompts: Sequence[Sequence[int]], group_size: int, uniforms: Tensor | None, fixed: dict[str, Any]
) -> Samples:
    """`sample`; a single prompt in float64 is given repeatedly, since its logits are one row for all of its group."""
    if len(prompts) == 1 and group_size > 1 and next(model.parameters()).dtype == torch.float64:
        prompts, group_size = list(prompts) * group_size, 1
    return sample(model, prompts, group_size=group_size, uniforms=uniforms, **fixed)


def _parts(
    lengths: Sequence[int], group_size: int, max_new_tokens: int, max_tokens: int
) -> Iterator[tuple[list[int], int, list[int]]]:
    """Prompts of each part, responses to each of them, and the numbers of these among all responses."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    start = 0
    while start < len(order):
        room = max(1, max_tokens // (lengths[order[start]] + max_new_tokens))  # rows as long as the first prompt's
        if room < group_size:
            prompt = order[start]
            for first in range(0, group_size, room):
                size = min(room, group_size - first)
                yield [prompt], size, list(range(prompt * group_size + first, prompt * group_size + first + size))
            start += 1
            continue
        stop = start + 1
        while (
            stop < len(order)
            and (stop + 1 - start) * group_size * (lengths[order[stop]] + max_new_tokens) <= max_tokens
        ):
            stop += 1
        some = order[start:stop]
        yield some, group_size, [prompt * group_size + i for prompt in some for i in range(group_size)]
        start = stop


def _joined(drawn: Sequence[tuple[list[int], Samples]], rows: int, pad_id: int) -> Samples:
    """The responses of all parts in their order, at the width of the longest."""
    first = drawn[0][1]
    width = max(part.response_ids.shape[1] for _, part in drawn)
    lengths, finished = first.lengths.new_zeros(rows), first.finished.new_zeros(rows)
    response_ids = first.response_ids.new_full((rows, width), pad_id)
    names = ("log_probs", "entropy", "sampling_log_probs", "sampling_entropy")
    values = {
        name: torch.zeros(rows, width, dtype=first.log_probs.dtype, device=first.log_probs.device) for name in names
    }
    for numbers, part in drawn:
        index = torch.tensor(numbers, device=lengths.device)
        own = part.response_ids.shape[1]
        lengths[index], finished[index] = part.lengths, part.finished
        response_ids[index, :own] = part.response_ids
        for name, value in values.items():
            value[index, :own] = getattr(part, name)
    return Samples(response_ids, lengths, finished=finished, **values)
