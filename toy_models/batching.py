"""Teacher forcing: prompts and given responses as one padded batch, and the logits that predict each response token.

For each t < len(response_b), `response_logits(model, teacher_batch(...))[b, t]` equals
`model(prompt_b + response_b).logits[len(prompt_b) + t - 1]`. Values under padding are finite and have no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["TeacherBatch", "left_pad", "response_logits", "teacher_batch"]


@dataclass(frozen=True)
class TeacherBatch:
    """Prompts, padded on the left to P tokens, and responses, padded on the right to R tokens, side by side.

    Attributes:
        input_ids: (B, P + R) int64.
        attention_mask: (B, P + R) int64, 1 at tokens; None where all prompts have the same length (a causal model never
            looks to the right, so that padding after a response needs no mask).
        position_ids: (B, P + R) int64, positions from 0 at the first token of the prompt; None likewise.
        tokens: (B, R) int64, the responses.
        mask: (B, R) bool, true at the tokens of the responses.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    tokens: Tensor
    mask: Tensor


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, P), padded on the left, and the bool mask (B, P) of the tokens."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(s)) + list(s) for s in sequences], dtype=torch.int64)
    lengths = torch.tensor([len(s) for s in sequences])
    return ids, torch.arange(width) >= (width - lengths)[:, None]


def teacher_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> TeacherBatch:
    """Pad prompts and responses into one batch.

    Args:
        prompts: Token ids of each prompt.
        responses: Token ids of one response to each prompt; repeat a prompt that has several.
        pad_id: The padding token.
        device: Where the batch is placed.

    Returns:
        The batch, one row for each response.

    Raises:
        ValueError: The batch, a prompt or a response is empty, or there are not as many responses as prompts.

    >>> batch = teacher_batch([[5, 6], [7]], [[8], [9, 1]], pad_id=0)
    >>> batch.input_ids.tolist(), batch.mask.tolist()
    ([[5, 6, 8, 0], [0, 7, 9, 1]], [[True, False], [True, True]])
    """
    if len(prompts) != len(responses) or not prompts:
        raise ValueError(
            f"responses: expected one for each of the prompts (at least one), got {len(responses)} for "
            f"{len(prompts)} prompts; repeat a prompt for each of its responses"
        )
    for name, rows in (("prompts", prompts), ("responses", responses)):
        for i, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"{name}: expected at least one token in each, got none in row {i}")
    prompt_ids, prompt_mask = left_pad(prompts, pad_id)
    tokens, flipped = left_pad([row[::-1] for row in responses], pad_id)
    tokens, mask = tokens.flip(1), flipped.flip(1)
    attention_mask = position_ids = None
    if not bool(prompt_mask.all()):
        attention_mask = torch.cat([prompt_mask, mask], dim=1).long()
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0).to(device)
        attention_mask = attention_mask.to(device)
    return TeacherBatch(
        input_ids=torch.cat([prompt_ids, tokens], dim=1).to(device),
        attention_mask=attention_mask,
        position_ids=position_ids,
        tokens=tokens.to(device),
        mask=mask.to(device),
    )


def response_logits(model: Any, batch: TeacherBatch) -> Tensor:
    """The logits that predict each response token, with gradients, in one forward pass.

    Args:
        model: A causal language model of transformers.
        batch: Prompts and responses.

    Returns:
        Logits (B, R, V), not divided by a temperature.
    """
    n = batch.tokens.shape[1]
    padding: dict[str, Tensor] = {}
    if batch.attention_mask is not None and batch.position_ids is not None:
        padding = {"attention_mask": batch.attention_mask[:, :-1], "position_ids": batch.position_ids[:, :-1]}
    # The last token of the longest response predicts nothing that is needed.
    output = model(input_ids=batch.input_ids[:, :-1], use_cache=False, logits_to_keep=n, **padding)
    return output.logits
