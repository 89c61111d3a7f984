"""Teacher forcing in which what responses have in common goes through the model once.

Responses to one prompt share the prompt, and often their first tokens. Their distinct beginnings form a tree, of which
every token is forwarded once: the trees lie side by side in rows, each token at its own position, and an attention mask
lets it look at its ancestors alone. Prompts that begin alike, with the same instructions or worked examples, share a
tree where that saves more than its attention costs. Logits and gradients are those of `response_logits`, up to
rounding: a token that many responses share gets the sum of their gradients.

This saves the more, the longer prompts are beside responses and the more responses to a prompt are in one batch. A tree
attends densely (all its tokens against all), so that long responses to short prompts get trees of their own, and the
plain batch, which needs no mask, is faster for them. It needs a model whose attention takes a mask of its own and whose
positions are given by `position_ids`; `sharing_fails` tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batching import TeacherBatch, response_logits, teacher_batch

__all__ = [
    "SharedBatch",
    "chosen_hidden",
    "chosen_logits",
    "head_reads",
    "shared_batch",
    "shared_logits",
    "sharing_fails",
]

_WIDTH = 64  # tokens in a row, unless a tree has more: short rows are attention's fixed costs, long ones its square
# Prompts join a tree from this many common tokens on: fewer are chance, and save nothing.
_ALIKE_FROM = 8
# Tokens of a tree at which its dense attention costs as much as everything else: a pass over n tokens of a model of
# width d makes about 24·d²·n operations and another 4·d·n² in attention, equal at n = 6·d, 3456 for d = 576; masked
# attention runs at a lower rate than large products.
_ATTENTION_EVEN = 2048
# Differences of log-probs beyond those of products in another order; norms round to float32 also in float64.
_TOLERANCE_NATS = 1e-3

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SharedBatch:
    """The trees of a batch in S rows of L tokens.

    Attributes:
        input_ids: (S, L) int64.
        position_ids: (S, L) int64, the position of each token after the beginning of its prompt.
        mask: (S, 1, L, L) float32, 0 where a token (third axis) sees another (fourth) and −inf elsewhere.
        places: (B, R) int64, where in the S·L tokens the logits lie that predict each token of the responses; any
            place under padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    places: Tensor


def shared_batch(batch: TeacherBatch) -> SharedBatch:
    """The trees of prompts and responses.

    Args:
        batch: As `teacher_batch` makes it; rows of equal prompts, or of prompts that begin alike, share wherever they
            stand in the batch.

    Returns:
        The trees, on the device of the batch.

    >>> shared = shared_batch(teacher_batch([[5, 6], [5, 6]], [[8, 9, 1], [8, 7, 1]], pad_id=0))
    >>> shared.input_ids.tolist(), shared.position_ids.tolist(), shared.places.tolist()
    ([[5, 6, 8, 7, 9]], [[0, 1, 2, 3, 3]], [[1, 2, 4], [1, 2, 3]])
    """
    device = batch.input_ids.device
    ids, prompt, needed, order = _sorted_rows(batch)
    n_rows, n_columns = ids.shape
    column = np.arange(n_columns)
    real = column < needed[:, None]
    same = np.zeros_like(real)
    same[1:] = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1) & real[1:] & real[:-1]
    first = _tree_starts(same.sum(1), prompt, needed)
    same[first] = False
    new = real & ~same
    # The node of each real place: the last row so far that made one in its column.
    maker = np.maximum.accumulate(np.where(new, np.arange(n_rows)[:, None], -1), axis=0)
    number = np.cumsum(new).reshape(new.shape) - 1
    node = np.where(real, number[np.maximum(maker, 0), column], -1)

    tree = np.cumsum(first) - 1
    sizes = np.bincount(tree, weights=new.sum(1)).astype(np.int64)
    row, offset, n_bins, length = _packed(sizes)
    begins = np.cumsum(sizes) - sizes
    made_row, made_column = new.nonzero()
    of_tree = tree[made_row]
    at = offset[of_tree] + np.arange(len(made_row)) - begins[of_tree]  # column in its packed row
    packed_row = row[of_tree]

    input_ids, position_ids = np.zeros((2, n_bins, length), dtype=np.int64)
    input_ids[packed_row, at] = ids[made_row, made_column]
    position_ids[packed_row, at] = made_column
    mask = torch.full((n_bins, length, length), -torch.inf)
    mask.diagonal(dim1=1, dim2=2).zero_()  # padding sees itself, so that nothing is NaN
    seen, ancestor = (real[made_row] & (column <= made_column[:, None])).nonzero()
    mask[packed_row[seen], at[seen], at[node[made_row[seen], ancestor]]] = 0.0

    place = packed_row * length + at
    places = np.empty((n_rows, batch.tokens.shape[1]), dtype=np.int64)
    reads = np.minimum(prompt[:, None] - 1 + np.arange(places.shape[1]), needed[:, None] - 1)
    places[order] = place[np.take_along_axis(node, reads, axis=1)]
    tensors = (torch.from_numpy(input_ids), torch.from_numpy(position_ids), mask[:, None], torch.from_numpy(places))
    return SharedBatch(*(tensor.to(device) for tensor in tensors))


def shared_logits(model: Any, shared: SharedBatch) -> Tensor:
    """The logits that predict each response token, with gradients, in one forward pass.

    The hidden states are gathered before the output head, so that it reads one for each response token and none of a
    prompt.

    Args:
        model: A causal language model of transformers.
        shared: Prompts and responses.

    Returns:
        Logits (B, R, V) as of `response_logits`, not divided by a temperature.

    Raises:
        ValueError: The model calls no output head, or not once.
    """
    with head_reads(model, shared.places):
        return model(**_inputs(model, shared), use_cache=False).logits


def chosen_logits(
    model: Any, batch: TeacherBatch, rows: Tensor, positions: Tensor, *, share: bool
) -> Callable[[], Tensor]:
    """A forward pass that gives the logits of some tokens of the responses, with gradients.

    The output head reads the hidden states of these tokens alone, so that memory is that of n rows of logits and not of
    all responses'. Everything that does not depend on the model is prepared beforehand, so that the pass can be made
    under the transforms of `torch.func`.

    Args:
        model: A causal language model of transformers.
        batch: Prompts and responses.
        rows: (n,) int64, the row of each token.
        positions: (n,) int64, its position in the response.
        share: Whether what rows have in common goes through the model once, as by `shared_logits`.

    Returns:
        A function without arguments. Its logits (n, V) equal `response_logits(model, batch)[rows, positions]` up to
        rounding; it raises ValueError where the model calls no output head, or not once.
    """
    places, inputs = _chosen(model, batch, rows, positions, share)

    def logits() -> Tensor:
        with head_reads(model, places[None]):
            return model(**inputs, use_cache=False).logits[0]

    return logits


def chosen_hidden(
    model: Any, batch: TeacherBatch, rows: Tensor, positions: Tensor, *, share: bool
) -> tuple[Tensor, Tensor]:
    """What the output head would read to predict some tokens of the responses, with gradients, in one forward pass.

    Args:
        model, batch, rows, positions, share: As for `chosen_logits`.

    Returns:
        Hidden states (n, D), and the logits (1, V) of the first of them: the head reads no other.

    Raises:
        ValueError: The model calls no output head, or not once.
    """
    places, inputs = _chosen(model, batch, rows, positions, share)
    kept: list[Tensor] = []
    with head_reads(model, places[None], kept=kept):
        logits = model(**inputs, use_cache=False).logits[0]
    return kept[0], logits


@contextmanager
def head_reads(model: Any, places: Tensor, *, kept: list[Tensor] | None = None) -> Iterator[None]:
    """Context in which the output head reads the hidden states at `places` (B, R) of all tokens that reach it.

    Args:
        model: A causal language model of transformers; one forward pass is to be made in the context.
        places: int64, indices into the tokens that reach the head, row after row.
        kept: A list that gets these states, (B·R, D) with their graph; the head then reads the first of them alone.

    Raises:
        ValueError: At the end of the context: its output head was not called once.
    """
    calls = 0

    def gather(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        hidden, *others = args
        flat = hidden.reshape(-1, hidden.shape[-1]).index_select(0, places.reshape(-1))
        if kept is not None:
            kept.append(flat)
            return (flat[None, :1], *others)
        return (flat.view(*places.shape, -1), *others)

    # First of all hooks, so that others read the same layout as in a plain pass.
    handle = model.get_output_embeddings().register_forward_pre_hook(gather, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    if calls != 1:
        raise ValueError(f"model: expected one call of its output head in a forward pass, got {calls}")


def sharing_fails(model: Any, prompt: Sequence[int], response: Sequence[int], pad_id: int) -> str | None:
    """Why the logits of a model are others where beginnings are shared, in words; None where they are the same.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompt: Token ids of one prompt: the longest.
        response: Token ids of one response, of the greatest length.
        pad_id: The padding token.

    Cost: two forward passes over three responses.
    """
    half = len(response) // 2
    prompts = [prompt, prompt, prompt[-1:]]
    responses = [response, [*response[:half], *response[half:][::-1]], response]
    batch = teacher_batch(prompts, responses, pad_id, next(model.parameters()).device)
    with torch.no_grad():
        expected = response_logits(model, batch).log_softmax(-1)[batch.mask]
        try:
            got = shared_logits(model, shared_batch(batch)).log_softmax(-1)[batch.mask]
        except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            return f"its forward pass refuses a mask of its own for each token ({type(error).__name__}: {error})"
    difference = (got - expected).abs().max().item()
    if difference <= _TOLERANCE_NATS:
        return None
    return f"the log-probs of its tokens differ by up to {difference:.2g} nats from those of a plain pass"


def _chosen(
    model: Any, batch: TeacherBatch, rows: Tensor, positions: Tensor, share: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Where in the tokens that reach the output head those lie that predict the chosen ones, (n,), and the inputs."""
    if share:
        shared = shared_batch(batch)
        return shared.places[rows, positions], _inputs(model, shared)
    width = batch.input_ids.shape[1] - 1  # the last token of the longest response predicts nothing
    inputs = {"input_ids": batch.input_ids[:, :-1]}
    if batch.attention_mask is not None and batch.position_ids is not None:
        inputs |= {"attention_mask": batch.attention_mask[:, :-1], "position_ids": batch.position_ids[:, :-1]}
    return rows * width + width - batch.tokens.shape[1] + positions, inputs


def _inputs(model: Any, shared: SharedBatch) -> dict[str, Tensor]:
    return {
        "input_ids": shared.input_ids,
        "position_ids": shared.position_ids,
        "attention_mask": shared.mask.to(next(model.parameters()).dtype),
    }


def _sorted_rows(batch: TeacherBatch) -> tuple[Ints, Ints, Ints, Ints]:
    """Token ids (B, P + R) of prompt and response from the first column on, −1 after them, in the order of prompts,
    then of responses; the tokens of each prompt; the columns that each row needs as input, one less than it has; and
    the original row of each."""
    ids = batch.input_ids.cpu().numpy()
    lengths = batch.mask.sum(1).cpu().numpy()
    width = ids.shape[1] - batch.tokens.shape[1]
    start = np.zeros(len(ids), dtype=np.int64)
    if batch.attention_mask is not None:
        start = width - batch.attention_mask[:, :width].sum(1).cpu().numpy()
    column = np.arange(ids.shape[1])
    prompt, needed = width - start, width - start + lengths - 1
    ids = np.take_along_axis(ids, np.minimum(column + start[:, None], ids.shape[1] - 1), axis=1)
    ids[column > needed[:, None]] = -1
    prompts = np.where(column < prompt[:, None], ids, -1)
    order = np.lexsort(np.concatenate([prompts, ids], axis=1).T[::-1])
    return ids[order], prompt[order], needed[order], order


def _tree_starts(common: Ints, prompt: Ints, needed: Ints) -> NDArray[np.bool_]:
    """Which rows begin a tree; `common` are the first tokens that each has in common with the row before.

    A row joins the tree of the row before where the tokens that it saves cost more than the attention of the larger
    tree, n² against the squares of two; a row of another prompt only from `_ALIKE_FROM` common tokens on.
    """
    starts = np.ones(len(common), dtype=bool)
    size = 0
    for row, (saved, own) in enumerate(zip(common.tolist(), needed.tolist(), strict=True)):
        same_prompt = row > 0 and saved >= prompt[row] == prompt[row - 1]
        joined = size + own - saved
        cheaper = joined**2 - size**2 - own**2 < _ATTENTION_EVEN * saved
        starts[row] = not (row > 0 and cheaper and (same_prompt or saved >= _ALIKE_FROM))
        size = own if starts[row] else joined
    return starts


def _packed(sizes: Ints) -> tuple[Ints, Ints, int, int]:
    """Row and offset of each tree, the number of rows and their length: the largest first, each where it fits first."""
    room, row, offset = max(_WIDTH, int(sizes.max())), np.empty_like(sizes), np.empty_like(sizes)
    fill: list[int] = []
    for tree in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[tree])
        place = next((i for i, used in enumerate(fill) if used + size <= room), len(fill))
        if place == len(fill):
            fill.append(0)
        row[tree], offset[tree] = place, fill[place]
        fill[place] += size
    return row, offset, len(fill), max(fill)
