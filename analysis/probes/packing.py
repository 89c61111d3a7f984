"""Where sequences begin in the rows of a forward pass: one in each row, or several packed into one.

Packed rows are told by what the model itself is told, in any of the forms that transformers and its trainers use:

    position_ids (B, T)     start anew at each sequence
    cu_seq_lens_q (S + 1,)  of flash attention: the flattened batch is cut at these offsets
    seq_idx (B, T)          the number of the sequence of each token, negative at padding
    attention_mask (B, T)   1, 2, 3, … by sequence and 0 at padding

A mask of three or four dimensions can say the same in ways that cannot be told from other uses, and is refused. What
fills up a packed row (verl's pad_to_length, a multiple of the sequence-parallel size) may be told as a last sequence of
its own, of one token repeated; `without_fill` takes it away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, first_index

__all__ = ["Sequences", "find_sequences", "without_fill"]

_OFFSETS = (
    *("cu_seq_lens_q", "cu_seqlens_q", "cu_seqlens", "cu_seq_lens"),
    *("cu_seq_lens_k", "cu_seqlens_k", "cu_seqlens_cpu"),
)


@dataclass(frozen=True)
class Sequences:
    """`real` and `number` are (B, T)."""

    real: Tensor  # bool, False at padding
    number: Tensor  # int64, the sequence of each token, counted through the rows; −1 where it belongs to none
    count: int
    packed: bool  # whether a row holds several

    def begins(self) -> Tensor:
        """(B, T) bool, True at a token that is not of the same sequence as the one before it."""
        before = torch.cat([torch.full_like(self.number[:, :1], -1), self.number[:, :-1]], 1)
        return self.number != before


def find_sequences(inputs: Mapping[str, Any], shape: tuple[int, int], device: torch.device) -> Sequences:
    """The sequences in the rows of a forward pass.

    Args:
        inputs: the arguments of the model's forward pass, by name.
        shape: (B, T) of the token ids.
        device: of the token ids.

    Raises:
        UsageError: a mask, positions or offsets do not have a form that is known, or contradict each other.
    """
    mask = _mask(inputs.get("attention_mask"), shape, device)
    real = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask > 0
    numbers = _numbered(inputs.get("seq_idx"), shape, device)
    real = real if numbers is None else real & (numbers >= 0)
    told = {
        "attention_mask": None if mask is None or mask.max() < 2 else _changes(mask),
        "position_ids": _restarts(inputs.get("position_ids"), real, shape),
        "seq_idx": None if numbers is None else _changes(numbers),
    }
    told |= {name: _offsets(name, inputs.get(name), shape, device) for name in _OFFSETS}
    starts = {name: (values & real) for name, values in told.items() if values is not None}
    first = real & (real.cumsum(1) == 1)
    chosen = torch.zeros_like(real)
    for name, values in starts.items():
        inner = values & ~first
        if name != next(iter(starts)) and bool((inner != chosen).any()):
            row, column = first_index(inner != chosen)
            raise UsageError(
                f"{name}: expected sequences that begin where {next(iter(starts))} has them begin, got another place "
                f"at row {row}, position {column}; pass both of the same packing"
            )
        chosen = inner
    return _numbered_rows(real, chosen | first)


def without_fill(sequences: Sequences, ids: Tensor, counts: Tensor | None, fill: Collection[int]) -> Sequences:
    """The sequences without those that only fill up packed rows.

    Such sequences are the last of their row, each one token repeated: a token that never counts, where it is told which
    tokens count, and one of `fill` otherwise.

    Args:
        sequences: of the rows.
        ids: (B, T).
        counts: (B, T) bool, whether each token counts; None where nothing says so.
        fill: tokens that padding consists of.
    """
    number = sequences.number.clone()
    for row in range(len(number)):
        while len(names := number[row][number[row] >= 0].unique()) > 1:
            own = number[row] == names[-1]
            token = int(ids[row][own][0])
            idle = token in fill if counts is None else not bool(counts[row][own].any())
            if not idle or bool((ids[row][own] != token).any()):
                break
            number[row][own] = -1
    if bool((number == sequences.number).all()):
        return sequences
    real = number >= 0
    left = number[real].unique()
    number[real] = torch.searchsorted(left, number[real])
    held = [row[row >= 0].unique().numel() for row in number]
    return Sequences(sequences.real & real, number, len(left), max(held) > 1)


def _numbered_rows(real: Tensor, begins: Tensor) -> Sequences:
    within = begins.cumsum(1)  # 1, 2, … in each row; 0 before its first token
    several = within.amax(1) > 1
    width = int(within.max()) + 1
    lengths = torch.zeros(len(real), width, dtype=torch.int64, device=real.device).scatter_add_(1, within, real.long())
    # a token alone is what fills a packed row up, and predicts nothing; a row without tokens is still a sequence
    kept = (lengths > 1) & (torch.arange(width, device=real.device) > 0)
    kept[~several] = False
    kept[~several, within.amax(1)[~several]] = True
    if bool((several & ~kept.any(1)).any()):
        raise UsageError(
            "position_ids: expected positions that count up within each sequence, got none that does in row "
            f"{int((several & ~kept.any(1)).nonzero()[0])}; pass positions that start anew at each sequence"
        )
    names = (kept.reshape(-1).cumsum(0) - 1).view(kept.shape).masked_fill(~kept, -1)
    number = names.gather(1, within)
    number[~several] = names[~several].amax(1, keepdim=True)
    return Sequences(real & (number >= 0), number, int(kept.sum()), bool((kept.sum(1) > 1).any()))


def _mask(mask: Any, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    """(B, T) of whole numbers; a mask over a longer cache speaks of the last T."""
    if mask is None:
        return None
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == shape[0] and mask.shape[1] >= shape[1]
    if not fits:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise UsageError(
            f"attention_mask: expected 0 at padding and 1 at tokens, shape {shape} as input_ids, got {got}; for packed "
            "sequences call the model with position_ids that start anew at each of them instead of a mask of blocks"
        )
    values = mask[:, mask.shape[1] - shape[1] :].to(device)
    whole = values.long()
    if bool(((whole != values) | (whole < 0)).any()):
        row, column = first_index((whole != values) | (whole < 0))
        raise UsageError(
            f"attention_mask: expected 0 at padding and 1 at tokens, got {values[row, column].item()} at row {row}, "
            f"position {column}; call the model with that mask, not with one to add to the scores"
        )
    return whole


def _changes(values: Tensor) -> Tensor:
    out = torch.zeros_like(values, dtype=torch.bool)
    out[:, 1:] = values[:, 1:] != values[:, :-1]
    return out


def _numbered(values: Any, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, Tensor) or tuple(values.shape) != shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"seq_idx: expected the number of each token's sequence, shape {shape}, got {got}")
    return values.to(device)


def _offsets(name: str, values: Any, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    if values is None:
        return None
    total = shape[0] * shape[1]
    good = isinstance(values, Tensor) and values.ndim == 1 and len(values) > 1 and int(values[0]) == 0
    if not good or int(values[-1]) > total or bool((values[1:] < values[:-1]).any()):
        got = values.tolist() if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"{name}: expected offsets from 0 to at most {total} that do not fall, got {got}")
    out = torch.zeros(total, dtype=torch.bool, device=device)
    inside = values.long().to(device)
    out[inside[inside < total]] = True
    return out.view(shape)


def _restarts(positions: Any, real: Tensor, shape: tuple[int, int]) -> Tensor | None:
    """Where positions return to the first one of their row; several axes (of rotary embeddings of images) together."""
    if positions is None:
        return None
    if not isinstance(positions, Tensor) or positions.ndim not in (2, 3) or positions.shape[-1] != shape[1]:
        got = tuple(positions.shape) if isinstance(positions, Tensor) else type(positions).__name__
        raise UsageError(f"position_ids: expected one for each token, shape {shape}, got {got}")
    axes = positions if positions.ndim == 3 else positions[None]
    if axes.shape[1] not in (1, shape[0]):
        raise UsageError(f"position_ids: expected one for each token, shape {shape}, got {tuple(positions.shape)}")
    axes = axes.to(real.device).expand(-1, shape[0], -1)
    at = (real.long().cumsum(1) == 1).long().argmax(1)  # the first token of each row that is not padding
    first = axes.gather(2, at[None, :, None].expand(len(axes), -1, 1))
    back = torch.zeros_like(axes, dtype=torch.bool)
    back[:, :, 1:] = axes[:, :, 1:] <= axes[:, :, :-1]
    both = real.clone()
    both[:, 1:] &= real[:, :-1]
    back &= both
    starts = (back & (axes == first)).all(0)
    # within one sequence no token of an image stands still or goes back on every axis
    if bool((back.all(0) & ~starts).any()):
        row, column = first_index(back.all(0) & ~starts)
        raise UsageError(
            f"position_ids: expected positions that count up, or start anew at {int(first[0, row, 0])} where another "
            f"sequence begins, got {int(axes[0, row, column])} after {int(axes[0, row, column - 1])} at row {row}, "
            f"position {column}; pass the positions of each sequence by itself"
        )
    return starts
