"""Teacher forcing: prompts and given responses as one padded batch, and the logits that predict each response token.

`response_logits(model, teacher_batch(...))[b, t]` equals `model(prompt_b + response_b).logits[len(prompt_b) + t - 1]`
for each t < len(response_b); what stands under padding is finite and means nothing.
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
    """Prompts left-padded to P tokens, responses right-padded to R tokens, side by side: L = P + R.

    `attention_mask` and `position_ids` are None where all prompts are equally long: a causal model never looks to the
    right, so that padding after a response needs no mask.
    """

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor | None  # (B, L) int64, 1 at tokens
    position_ids: Tensor | None  # (B, L) int64
    tokens: Tensor  # (B, R) int64: the responses
    mask: Tensor  # (B, R) bool: where they have tokens


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, P) token ids with padding on the left, and the (B, P) bool mask of the tokens."""
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
    """Pad prompts and responses, one response per prompt, into one batch.

    Raises ValueError for an empty batch, an empty prompt or response, or unequal numbers of the two.
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
    """(B, R, V) logits that predict each response token, not scaled by a temperature; one forward pass."""
    n = batch.tokens.shape[1]
    padding: dict[str, Tensor] = {}
    if batch.attention_mask is not None and batch.position_ids is not None:
        padding = {"attention_mask": batch.attention_mask[:, :-1], "position_ids": batch.position_ids[:, :-1]}
    # The last token of the longest response predicts nothing that is asked for.
    output = model(input_ids=batch.input_ids[:, :-1], use_cache=False, logits_to_keep=n, **padding)
    return output.logits
