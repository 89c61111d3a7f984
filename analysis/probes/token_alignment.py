"""Which token each position of a forward pass predicts, and which positions count.

Logits at position t predict the token at t + 1, as everywhere in transformers. From the arguments of the model's call
and the number K of positions that it gave logits for, `line_up` finds the predicted tokens (B, K), which of them count,
and each row's prompt and response. Which tokens count is decided by the first of the following that is present:

    labels          (B, T), as the model expects them: the token at each position, −100 (or any negative id) where it
                    does not count; `shift_labels` (B, T) hold the token that each position predicts
    completion_mask (B, T), or (B, C) for the last C positions: true where a token was sampled
    otherwise       every token that has one before it

Without labels and mask, `logits_to_keep` says as much: the tokens that the kept logits predict are the response.

A token that `attention_mask` marks as padding, left or right, never counts, nor does the first of a sequence. Several
sequences in one row (`packing`) are as many rollouts. The prompt of a sequence is what stands before the last C
positions, where the completion mask has C of them, and otherwise before its first token that counts. A sequence in
which none counts (a rollout that was cut off and masked) is still a rollout of its prompt: that before the last C, or
the longest prompt of another sequence that it begins with. Where neither is known it is left out, with a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, first_index
from .packing import Sequences, find_sequences, without_fill

__all__ = ["LinedUp", "line_up"]

_NOT_BY_CHANCE = 24


@dataclass(frozen=True)
class LinedUp:
    """One forward pass: `tokens`, `counts`, `position` and `sequence` are (B, K), on the device of the inputs."""

    tokens: Tensor  # int64, the token that each position predicts; 0 where it does not count
    counts: Tensor  # bool
    position: Tensor  # int64, index of the token among those of its sequence that count
    sequence: Tensor  # int64, the sequence that the token belongs to; 0 where it does not count
    prompts: list[list[int]]  # token ids of each sequence before its response; padding left out
    responses: list[list[int]]  # those that count
    unknown: frozenset[int] = frozenset()  # sequences without a token that counts whose prompt is not known

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, positions: int) -> LinedUp:
        """The same without the positions from `positions` on."""
        fields = ("tokens", "counts", "position", "sequence")
        return replace(self, **{name: getattr(self, name)[:, :positions] for name in fields})


def line_up(
    inputs: Mapping[str, Any],
    positions: int | None,
    vocabulary: int,
    *,
    labels: Tensor | None = None,
    completion_mask: Tensor | None = None,
    known_prompts: Collection[tuple[int, ...]] = (),
    fill: Collection[int] = (0,),
) -> LinedUp:
    """The tokens that the logits of a forward pass predict, and which of them count.

    Args:
        inputs: the arguments of the model's forward pass, by name.
        positions: number of logits in a row; None: one at each token of the input.
        vocabulary: ids below it are tokens.
        labels: replaces the labels among the inputs.
        completion_mask: narrows what counts.
        known_prompts: of sequences that went before, for those in which no token counts.
        fill: tokens that fill up packed rows.

    Raises:
        UsageError: shapes do not fit, a token is outside the vocabulary, or labels are shifted.

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
    shape = (like.shape[0], like.shape[1])
    _check("labels", labels, shape)
    _check("shift_labels", shifted, shape)
    sequences = find_sequences(inputs, shape, like.device)
    at = _positions(inputs.get("logits_to_keep"), shape[1] if positions is None else positions, shape[1], like.device)
    if isinstance(ids, Tensor) and sequences.packed:
        own = known if known is not None else completion_mask
        sequences = without_fill(sequences, ids, None if own is None else _told(known, completion_mask, shape), fill)
    tokens, counts = _predicted(ids, labels, shifted, sequences)
    start = None  # of the responses, where all rows have the same
    if completion_mask is not None:
        counts = counts & _ahead(_sampled(completion_mask, shape).to(counts.device), False)
        start = shape[1] - completion_mask.shape[1]
    elif known is None and len(at) < shape[1]:
        kept = torch.zeros_like(counts)
        kept[:, at] = True
        counts, start = counts & kept, int(at[0]) + 1
    outside = counts & ((tokens < 0) | (tokens >= vocabulary))
    if outside.any():
        row, column = first_index(outside)
        where = "labels" if known is not None else "input_ids"
        raise UsageError(
            f"{where}: expected token ids from 0 to {vocabulary - 1}, got {int(tokens[row, column])} as "
            f"the token after row {row}, position {column}; check that tokenizer and model belong together"
        )
    if ids is not None and known is not None:
        _check_not_shifted(ids.long(), tokens, counts, "labels" if shifted is None else "shift_labels")
    tokens = tokens.masked_fill(~counts, 0)
    number = sequences.number
    owner = torch.cat([number[:, 1:], number[:, -1:]], 1).masked_fill(~counts, 0)
    texts = _texts(ids, tokens, counts, sequences, start if start and not sequences.packed else None, known_prompts)
    position = _index_in_sequence(counts, owner)
    return LinedUp(tokens[:, at], counts[:, at], position[:, at], owner[:, at], *texts)


def _told(known: Tensor | None, completion_mask: Any, shape: tuple[int, int]) -> Tensor:
    """(B, T) bool, whether labels and mask say that anything of a position counts; shifted labels are as good."""
    out = torch.ones(shape, dtype=torch.bool) if known is None else known.cpu() >= 0
    return out if completion_mask is None else out & _sampled(completion_mask, shape).cpu()


def _index_in_sequence(counts: Tensor, owner: Tensor) -> Tensor:
    """(B, T), how many tokens of the same sequence count before each that does; 0 where it does not."""
    total = counts.reshape(-1).long().cumsum(0) - 1
    flat = owner.reshape(-1)
    here = counts.reshape(-1)
    first = torch.full((int(flat.max()) + 1,), len(flat), dtype=torch.int64, device=flat.device)
    first.scatter_reduce_(0, flat[here], total[here], "amin")
    return torch.where(here, total - first[flat], 0).view(counts.shape)


def _check_not_shifted(ids: Tensor, tokens: Tensor, counts: Tensor, name: str) -> None:
    """UsageError where labels are those of the position after the one that they should be of."""
    right, late = _ahead(ids, -1), _ahead(_ahead(ids, -1), -1)
    # labels may hold other tokens than the input; that many of them do not agree with the next one by chance
    if counts.sum() >= _NOT_BY_CHANCE and bool((tokens != right)[counts].any() and (tokens == late)[counts].all()):
        cure = "the model shifts them itself" if name == "labels" else "they hold the token after each position"
        raise UsageError(
            f"{name}: expected the tokens of input_ids at their own positions, got those of one position later "
            f"throughout; {cure}, so pass them as they are"
        )


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
    ids: Tensor | None, labels: Tensor | None, shifted: Tensor | None, sequences: Sequences
) -> tuple[Tensor, Tensor]:
    """(B, T) the token that each position predicts, and whether it counts, the completion mask apart."""
    real = sequences.real
    # the first token of a packed sequence follows a token of another one, which does not predict it
    there = _ahead(real & ~(sequences.begins() & sequences.packed), False)
    if shifted is not None:  # they may know the token after the last one
        return shifted.long(), (shifted >= 0) & (there | (not sequences.packed))
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
    if bool(((mask != 0) & (mask != 1)).any()):
        row, column = first_index((mask != 0) & (mask != 1))
        raise UsageError(
            f"completion_mask: expected bool or 0 and 1, got {int(mask[row, column])} at row {row}, position {column}"
        )
    whole = torch.zeros(shape, dtype=torch.bool, device=mask.device)
    whole[:, shape[1] - mask.shape[1] :] = mask.bool()
    return whole


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


def _texts(
    ids: Tensor | None,
    tokens: Tensor,
    counts: Tensor,
    sequences: Sequences,
    start: int | None,
    known_prompts: Collection[tuple[int, ...]],
) -> tuple[list[list[int]], list[list[int]], frozenset[int]]:
    """Prompts, responses, and which sequences have no prompt that is known."""
    y, chosen = tokens.cpu().numpy(), counts.cpu().numpy()
    number, there = sequences.number.cpu().numpy(), sequences.real.cpu().numpy()
    given = None if ids is None else ids.cpu().numpy()
    prompts: list[list[int]] = [[] for _ in range(sequences.count)]
    responses: list[list[int]] = [[] for _ in range(sequences.count)]
    empty: dict[int, tuple[int, ...]] = {}
    for row in range(len(y)):
        for sequence in range(max(0, int(number[row].min())), int(number[row].max()) + 1):
            own = np.flatnonzero(number[row] == sequence)
            if not len(own):
                continue
            low, high = int(own[0]), int(own[-1]) + 1
            predicts = np.arange(max(low - 1, 0), high)
            if sequences.packed:
                predicts = predicts[predicts < high - 1]
            at = predicts[chosen[row, predicts]]
            responses[sequence] = y[row, at].tolist()
            if given is None:
                continue
            whole = low + np.flatnonzero(there[row, low:high])
            first = start if start is not None else int(at[0]) + 1 if len(at) else high
            prompts[sequence] = given[row, whole[whole < first]].tolist()
            if not len(at) and start is None:
                empty[sequence] = tuple(given[row, whole].tolist())
    candidates = set(known_prompts) | {
        tuple(prompt) for place, prompt in enumerate(prompts) if prompt and place not in empty
    }
    unknown = set()
    for sequence, whole_ids in empty.items():
        begun = [prompt for prompt in candidates if whole_ids[: len(prompt)] == prompt]
        prompts[sequence] = list(sorted(begun, key=lambda prompt: len(prompt))[-1]) if begun else []
        if not begun:
            unknown.add(sequence)
    return prompts, responses, frozenset(unknown)
