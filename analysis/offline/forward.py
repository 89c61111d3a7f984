"""The forward pass over recorded rollouts: window by window, batch by batch, smaller where memory runs out.

A window is what is committed together at the earliest; windows follow the file's order. Within one, rollouts are sorted
by length, so that little is spent on padding, and fill batches up to a budget of tokens, padding counted.

Models whose numbers for a row depend on the rest of its batch (`toy_models.batch_dependence`) get rows that may share
one, or one row at a time. The first batch of several rows is compared with its shortest row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from toy_models.batch_dependence import batch_dependence, differs

from ..errors import UsageError
from ..probes.output_heads import OutputHead, last_hidden_state, unwrap
from .response_statistics import measure, response_hidden
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["Columns", "Forward", "Sized", "batches_of", "windows"]

_VERIFIED = 16  # tokens
_BATCHES = 8  # budgets in a window

Columns = dict[str, np.ndarray]


class Sized(Protocol):
    """Anything with a number of tokens."""

    @property
    def length(self) -> int: ...


T = TypeVar("T", bound=Sized)


def windows(
    items: Sequence[T], start: int, budget: int, measured: Callable[[T], bool] = lambda item: True
) -> Iterator[tuple[int, list[T]]]:
    """(end, items[begin:end]) of successive windows from `start`, each of some budgets of tokens, or of one item.

    An item that is not `measured` counts as one token.
    """
    window: list[T] = []
    tokens = 0
    for place, item in enumerate(islice(items, start, None), start):
        size = item.length if measured(item) else 1
        tokens += size
        if window and tokens > _BATCHES * budget:
            yield place, window
            window, tokens = [], size
        window.append(item)
    if window:
        yield len(items), window


def batches_of(items: Sequence[T], budget: int) -> list[list[T]]:
    """The items by falling length in batches whose count times greatest length is at most `budget`, or of one item.

    >>> from types import SimpleNamespace
    >>> sized = [SimpleNamespace(length=n) for n in (3, 9, 4, 1)]
    >>> [[item.length for item in batch] for batch in batches_of(sized, 9)]
    [[9], [4, 3], [1]]
    """
    batches: list[list[T]] = []
    for item in sorted(items, key=lambda item: -item.length):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


class Forward:
    """Statistics of each rollout's tokens under one model.

    Attributes:
        model: The causal language model.
        budget: Tokens that go through it together; halved where memory runs out.
        notes: What a reader should know of which rows shared a batch.
    """

    def __init__(self, model: Any, head: OutputHead, settings: TraceSettings, budget: int) -> None:
        self.model, self.budget = model, budget
        self._head, self._settings = head, settings
        self._verified = self._compared = False
        self._dependence = batch_dependence(unwrap(model).config)
        self._single = self._dependence.capacity is not None
        self.notes: list[str] = []
        if self._single:
            self._note(f"the experts of the model have a capacity ({self._dependence.capacity})")
        self._device = next(model.parameters()).device

    def __call__(
        self,
        batches: Sequence[list[Encoded]],
        advance: Callable[[int], None],
        stopped: Callable[[], bool],
        say: Callable[[str], None],
    ) -> dict[int, Columns] | None:
        """Index of each rollout of the batches -> its columns; None where `stopped` came true in between.

        `advance` is told the tokens of each batch that is done, `say` what happened where memory ran out.
        """
        columns: dict[int, Columns] = {}
        waiting = list(batches)[::-1]
        while waiting:
            if stopped():
                return None
            batch = waiting.pop()
            try:
                columns_of_batch = self._batch(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(batch, error, say)
                left = [*batch, *(item for later in waiting for item in later)]
                waiting = self.batches(left)[::-1]
                continue
            if columns_of_batch is None:  # from now on one row at a time
                waiting = self.batches([*batch, *(item for later in waiting for item in later)])[::-1]
                continue
            columns |= columns_of_batch
            advance(sum(item.length for item in batch))
        return columns

    @property
    def single(self) -> bool:
        """Whether rollouts go through the model one at a time."""
        return self._single

    def follow(self, budget: int, *, single: bool) -> None:
        """Make batches as another process found that they must be made."""
        self.budget, self._single = min(self.budget, budget), self._single or single

    def _verify(self, item: Encoded) -> None:
        """Hold what was read of the head against the model's own logits, for some tokens of one rollout."""
        ids = torch.from_numpy(np.concatenate([item.prompt, item.response])[:_VERIFIED]).to(self._device)[None]
        hidden = last_hidden_state(self._head.backbone(input_ids=ids, use_cache=False))
        self._head.verify(hidden[0], self.model(input_ids=ids, use_cache=False).logits[0])
        self._verified = True

    def batches(self, items: Sequence[Encoded]) -> list[list[Encoded]]:
        """Batches of rows that may share one."""
        if self._single:
            return batches_of(items, 0)
        alike: dict[Any, list[Encoded]] = {}
        for item in items:
            alike.setdefault(self._dependence.kind(item.length + 1), []).append(item)
        return [batch for rows in alike.values() for batch in batches_of(rows, self.budget)]

    def _hidden(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        backbone, options = self._head.backbone, {"whole": True} if self._dependence.by_length else {}
        if self._dependence.exact_above is not None:  # dynamic NTK keeps the frequencies of the longest row so far
            backbone(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=self._device), use_cache=False)
        return response_hidden(
            backbone, [item.prompt for item in batch], [item.response for item in batch], self._device, **options
        )

    def _depends(self, batch: Sequence[Encoded], hidden: Tensor) -> bool:
        """Whether the shortest row of a batch is another one alone; UsageError where it depends on what follows it."""
        row = batch[-1]
        alone, _ = self._hidden([row])
        if not differs(alone, hidden[-len(row.response) :]):
            return False
        if batch[0].length < row.length + 2:  # more positions than any row has might be more than the model has
            return True
        after = [replace(row, response=np.append(row.response, [token, token])) for token in (0, 1)]
        first, second = (self._hidden([other])[0][: len(row.response)] for other in after)
        if differs(first, second):
            raise UsageError(
                f"model: expected a causal model, got {type(self._head.model).__name__}, whose numbers for a token "
                f"depend on the tokens after it (in {row.rollout.where}); such a model has no log-probs of a response"
            )
        return True

    def _note(self, reason: str) -> None:
        self.notes.append(
            f"Rollouts went through the model one at a time: {reason}, so that its numbers depend on the batch."
        )

    def _batch(self, batch: list[Encoded]) -> dict[int, Columns] | None:
        """The columns of each row; None where the rows turn out to depend on one another."""
        if not self._verified:
            self._verify(batch[-1])
        hidden, tokens = self._hidden(batch)
        if len(batch) > 1 and not self._compared:
            self._compared = True
            if self._depends(batch, hidden):
                self._single = True
                self._note(f"{batch[-1].rollout.where} has other hidden states alone than beside longer rows")
                return None
        try:
            columns = measure(
                hidden,
                tokens,
                self._head,
                temperature=self._settings.temperature,
                top_k=self._settings.top_k,
                columns=self._settings.record_columns,
            )
        except UsageError as error:  # logits that are no numbers
            others = f" and {len(batch) - 1} others" if len(batch) > 1 else ""
            raise UsageError(f"{error} (in {batch[0].rollout.where}{others})") from error
        ends = np.cumsum([len(item.response) for item in batch])[:-1]
        parts = {name: np.split(values, ends) for name, values in columns.items()}
        return {item.rollout.index: {name: part[i] for name, part in parts.items()} for i, item in enumerate(batch)}

    def _halve(self, batch: list[Encoded], error: BaseException, say: Callable[[str], None]) -> None:
        """From now on half of what this batch had; UsageError where that was a single rollout."""
        if len(batch) == 1:
            raise UsageError(
                f"batch_tokens: out of memory with a single rollout of {batch[0].length} tokens "
                f"({batch[0].rollout.where}); what was traced before is kept: use a device with more "
                "memory, a smaller dtype, or leave that rollout out, and resume"
            ) from error
        used = len(batch) * batch[0].length
        self.budget = max(1, used // 2)
        say(f"out of memory with a batch of {used:,} tokens; continuing with {self.budget:,}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    """Of a device, of Python, or of torch's allocator on the CPU, which has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
