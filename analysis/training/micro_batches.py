"""How the rows of a pass are cut into parts that go through the model one after the other.

A part is bounded by its number of rows (`update.micro_batch`), or by its tokens (`update.micro_batch_tokens`). Tokens
are those of the padded batch: rows times the longest prompt and the longest response of the part. Rows of like lengths
then go together, so that little of the budget is padding. With `update.shared_prompts` a prompt counts once, however
many of its responses are in the part, and responses to one prompt stay side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..recipes.fields import UpdateFields

__all__ = ["row_parts"]


def row_parts(
    prompt_lengths: Sequence[int],
    response_lengths: Sequence[int],
    prompts: Sequence[int],
    fields: UpdateFields,
    default: int | None = None,
) -> list[Tensor]:
    """Indices of the rows of each part, in the order in which the parts go through the model.

    Args:
        prompt_lengths: tokens of the prompt of each row.
        response_lengths: tokens of its response.
        prompts: number of its prompt; rows of one prompt have equal numbers.
        fields: `micro_batch` and `micro_batch_tokens`, of which one at most is set, and `shared_prompts`.
        default: rows of a part where neither is set; unset: all of them.

    Returns:
        At least one part for at least one row. A single row that is beyond the budget of tokens is a part of its own.

    >>> lengths = [3, 3, 3], [9, 2, 1]
    >>> [part.tolist() for part in row_parts(*lengths, [0, 1, 2], UpdateFields(micro_batch_tokens=12))]
    [[2, 1], [0]]
    """
    count = len(prompt_lengths)
    budget, shared = fields.micro_batch_tokens, fields.shared_prompts
    if budget is None:
        order = torch.arange(count)
        if shared:  # rows of one prompt side by side, so that parts divide few of them
            order = torch.tensor(prompts).argsort(stable=True)
        return list(order.split(fields.micro_batch or default or max(count, 1)))
    longest: dict[int, int] = {}
    for prompt, p, r in zip(prompts, prompt_lengths, response_lengths, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), p + r)

    def size(row: int) -> tuple[int, ...]:
        own = prompt_lengths[row] + response_lengths[row], response_lengths[row]
        return (longest[prompts[row]], prompts[row], *own) if shared else own

    parts: list[list[int]] = []
    part: list[int] = []
    for row in sorted(range(count), key=size):
        wider = [*part, row]
        if part and _tokens(wider, prompt_lengths, response_lengths, prompts, shared=shared) > budget:
            parts.append(part)
            wider = [row]
        part = wider
    return [torch.tensor(rows) for rows in [*parts, part] if rows]


def _tokens(
    rows: Sequence[int],
    prompt_lengths: Sequence[int],
    response_lengths: Sequence[int],
    prompts: Sequence[int],
    *,
    shared: bool,
) -> int:
    """Tokens that go through the model for some rows, padding included."""
    response = max(response_lengths[row] for row in rows)
    if shared:
        return sum({prompts[row]: prompt_lengths[row] for row in rows}.values()) + len(rows) * response
    return len(rows) * (max(prompt_lengths[row] for row in rows) + response)
