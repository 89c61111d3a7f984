"""The forward pass over a window of rollouts: batch by batch, smaller where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from ..probes.output_heads import find_head, last_hidden_state
from .batches import batches_of
from .response_statistics import measure, response_hidden
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["Forward"]

_VERIFIED = 16  # tokens

Columns = dict[str, np.ndarray]


class Forward:
    """Statistics of each rollout's tokens under one model, `budget` tokens at a time; half of them from where memory
    ran out, which `say` is told of."""

    def __init__(self, model: Any, settings: TraceSettings, budget: int, say: Callable[[str], None]) -> None:
        self._head, self._model = find_head(model), model
        self._verified = False
        self._device = next(model.parameters()).device
        self._settings, self.budget, self._say = settings, budget, say

    def __call__(
        self, window: Sequence[Encoded], advance: Callable[[int], None], stopped: Callable[[], bool]
    ) -> list[Columns] | None:
        """Columns of each rollout of the window, in its order; None where `stopped` came true in between."""
        found: dict[int, Columns] = {}
        waiting = batches_of(window, self.budget)[::-1]
        while waiting:
            if stopped():
                return None
            batch = waiting.pop()
            try:
                found |= self._batch(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(batch, error)
                left = [*batch, *(item for later in waiting for item in later)]
                waiting = batches_of(left, self.budget)[::-1]
                continue
            advance(sum(item.length for item in batch))
        return [found[item.rollout.index] for item in window]

    def _verify(self, item: Encoded) -> None:
        """Hold what was read of the head against the model's own logits, for some tokens of one rollout."""
        ids = torch.from_numpy(np.concatenate([item.prompt, item.response])[:_VERIFIED]).to(self._device)[None]
        hidden = last_hidden_state(self._head.backbone(input_ids=ids, use_cache=False))
        self._head.verify(hidden[0], self._model(input_ids=ids, use_cache=False).logits[0])
        self._verified = True

    def _batch(self, batch: list[Encoded]) -> dict[int, Columns]:
        if not self._verified:
            self._verify(batch[-1])
        hidden, tokens = response_hidden(
            self._head.backbone, [item.prompt for item in batch], [item.response for item in batch], self._device
        )
        try:
            columns = measure(
                hidden, tokens, self._head, temperature=self._settings.temperature, top_k=self._settings.top_k
            )
        except UsageError as error:  # logits that are no numbers
            others = f" and {len(batch) - 1} others" if len(batch) > 1 else ""
            raise UsageError(f"{error} (in {batch[0].rollout.where}{others})") from error
        ends = np.cumsum([len(item.response) for item in batch])[:-1]
        parts = {name: np.split(values, ends) for name, values in columns.items()}
        return {item.rollout.index: {name: of[i] for name, of in parts.items()} for i, item in enumerate(batch)}

    def _halve(self, batch: list[Encoded], error: BaseException) -> None:
        """From now on half of what this batch had; UsageError where that was a single rollout."""
        if len(batch) == 1:
            raise UsageError(
                f"batch_tokens: out of memory with a single rollout of {batch[0].length} tokens "
                f"({batch[0].rollout.where}); what was traced before is kept: use a device with more "
                "memory, a smaller dtype, or leave that rollout out, and resume"
            ) from error
        used = len(batch) * batch[0].length
        self.budget = max(1, used // 2)
        self._say(f"out of memory with a batch of {used:,} tokens: going on with {self.budget:,}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    """Of a device, of Python, or of torch's allocator on the CPU, which has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
