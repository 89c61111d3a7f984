"""Which token each position of a forward pass predicts, and which positions count.

Logits at position t predict the token at t + 1, as everywhere in transformers. From the arguments of the model's call
and the number K of positions that it gave logits for, `line_up` finds the predicted tokens (B, K), which of them count,
and each row's prompt and response. Which tokens count is decided by the first of the following that is present:

    labels          (B, T), as the model expects them: the token at each position, −100 (or any negative id) where it
                    does not count; `shift_labels` (B, T) hold the token that each position predicts
    completion_mask (B, T), or (B, C) for the last C positions: true where a token was sampled
    otherwise       every token that has one before it

A token that `attention_mask` marks as padding, left or right, never counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, first_index

__all__ = ["LinedUp", "line_up"]


@dataclass(frozen=True)
class LinedUp:
    """One forward pass: `tokens`, `counts` and `position` are (B, K), on the device of the inputs."""

    tokens: Tensor  # int64, the token that each position predicts; 0 where it does not count
    counts: Tensor  # bool
    position: Tensor  # int64, index of the token among those of its row that count
    prompts: list[list[int]]  # token ids of each row before the first that counts; padding left out
    responses: list[list[int]]  # those that count

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, positions: int) -> LinedUp:
        """The same without the positions from `positions` on."""
        tokens, counts, position = (x[:, :positions] for x in (self.tokens, self.counts, self.position))
        return LinedUp(tokens, counts, position, self.prompts, self.responses)


def line_up(
    inputs: Mapping[str, Any],
    positions: int | None,
    vocabulary: int,
    *,
    labels: Tensor | None = None,
    completion_mask: Tensor | None = None,
) -> LinedUp:
    """The tokens that the logits of a forward pass predict, and which of them count.

    Args:
        inputs: the arguments of the model's forward pass, by name.
        positions: number of logits in a row; None: one at each token of the input.
        vocabulary: ids below it are tokens.
        labels: replaces the labels among the inputs.
        completion_mask: narrows what counts.

    Raises:
        UsageError: shapes do not fit, or a token is outside the vocabulary.

    >>> ids = torch.tensor([[0, 5, 6, 7, 8]])
    >>> inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    >>> lined = line_up(inputs, 5, 10, completion_mask=torch.tensor([[0, 0, 0, 1, 1]]))
    >>> lined.tokens, lined.counts
    (tensor([[0, 0, 7, 8, 0]]), tensor([[False, False,  True,  True, False]]))
    >>> lined.prompts, lined.responses
    ([[5, 6]], [[7, 8]])
    """
    ids = inputs.get("input_ids")
    shifted = inputs.get("shift_labels") if labels is None else None
    if labels is None and shifted is None:
        labels = inputs.get("labels")
    known = shifted if shifted is not None else labels
    like = ids if isinstance(ids, Tensor) else known
    if not isinstance(like, Tensor):
        raise UsageError(
            "labels: expected input_ids or labels among the arguments of the forward pass, got neither; without them "
            "the tokens are not known, so call the model with one of them, or give labels=… to attach"
        )
    if like.ndim != 2:
        raise UsageError(f"input_ids: expected shape (batch, length), got {tuple(like.shape)}")
    shape = tuple(like.shape)
    _check("labels", labels, shape)
    _check("shift_labels", shifted, shape)
    real = _real(inputs.get("attention_mask"), shape, like.device)
    tokens, counts = _predicted(ids, labels, shifted, real)
    if completion_mask is not None:
        counts = counts & _ahead(_sampled(completion_mask, shape).to(counts.device), False)
    outside = counts & ((tokens < 0) | (tokens >= vocabulary))
    if outside.any():
        row, column = first_index(outside)
        where = "labels" if known is not None else "input_ids"
        raise UsageError(
            f"{where}: expected token ids from 0 to {vocabulary - 1}, got {int(tokens[row, column])} as "
            f"the token after row {row}, position {column}; check that tokenizer and model belong together"
        )
    tokens = tokens.masked_fill(~counts, 0)
    prompts, responses = _texts(ids, tokens, counts, real)
    at = _positions(inputs.get("logits_to_keep"), shape[1] if positions is None else positions, shape[1], like.device)
    position = (counts.cumsum(1) - 1).clamp(min=0)
    return LinedUp(tokens[:, at], counts[:, at], position[:, at], prompts, responses)


def _check(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor) or value.is_floating_point() or tuple(value.shape) != shape:
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"{name}: expected token ids of shape {shape}, as input_ids, got {got}")


def _ahead(values: Tensor, last: float | bool) -> Tensor:
    """values[:, t + 1] at t; `last` after the end."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], last)], 1)


def _predicted(
    ids: Tensor | None, labels: Tensor | None, shifted: Tensor | None, real: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, T) the token that each position predicts, and whether it counts, the completion mask apart."""
    if shifted is not None:
        return shifted.long(), shifted >= 0
    there = _ahead(real, False)
    if labels is not None:
        tokens = _ahead(labels.long(), -1)
        return tokens, there & (tokens >= 0)
    assert ids is not None
    return _ahead(ids.long(), 0), there & real


def _sampled(mask: Any, shape: tuple[int, ...]) -> Tensor:
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == shape[0] and mask.shape[1] <= shape[1]
    if not fits or mask.is_floating_point():
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise UsageError(
            f"completion_mask: expected bool or 0 and 1 of shape {shape}, as input_ids, or ({shape[0]}, "
            f"C) for their last C positions, got {got}"
        )
    whole = torch.zeros(shape, dtype=torch.bool, device=mask.device)
    whole[:, shape[1] - mask.shape[1] :] = mask.bool()
    return whole


def _real(mask: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(B, T) False at padding; a mask over a longer cache speaks of the last T."""
    if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == shape[0] and mask.shape[1] >= shape[1]:
        return mask[:, mask.shape[1] - shape[1] :].bool().to(device)
    return torch.ones(shape, dtype=torch.bool, device=device)


def _positions(keep: Any, positions: int, length: int, device: torch.device) -> Tensor:
    """(K,) positions in the input of the logits that the model gave."""
    if isinstance(keep, Tensor) and keep.ndim == 1:
        at = torch.arange(length, device=device)[keep.to(device)]
    else:
        at = torch.arange(length, device=device)[length - positions if positions < length else 0 :]
    if len(at) != positions:
        raise UsageError(
            f"model: expected logits for {len(at)} positions of an input of length {length}, got {positions}; attach "
            "reads models that give one for each token of the input"
        )
    return at


def _texts(ids: Tensor | None, tokens: Tensor, counts: Tensor, real: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    y, chosen, there = tokens.cpu().numpy(), counts.cpu().numpy(), real.cpu().numpy()
    given = None if ids is None else ids.cpu().numpy()
    prompts, responses = [], []
    for row in range(len(y)):
        responses.append(y[row, chosen[row]].tolist())
        first = int(np.argmax(chosen[row])) + 1 if chosen[row].any() else y.shape[1]
        prompts.append([] if given is None else given[row, :first][there[row, :first]].tolist())
    return prompts, responses
