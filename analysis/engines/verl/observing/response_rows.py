"""Where the response tokens of a micro batch stand: between verl's packed rows and (B, C) tensors of responses.

verl's trainer V1 hands out jagged rows: sequence i has P_i prompt tokens and R_i response tokens, and one value for
each of its P_i + R_i places in the packed row. The value at place j belongs to the distribution that predicts token
j + 1, so that response token t of sequence i is predicted at

    packed:   offset_i + P_i + t − 1            (offset_i: tokens of the sequences before)
    padded:   i·L + P_i + t − 1                 (L: width of the padded rows)

`C` is the longest response of the micro batch; a mask says which of the (B, C) places are tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ....errors import UsageError

__all__ = ["ResponseRows"]


@dataclass(frozen=True)
class ResponseRows:
    """The response tokens of B sequences, as (B, C).

    Attributes:
        prompt_lengths: (B,).
        lengths: (B,) response tokens, those of tools included.
        real: (B, C) bool, whether there is a response token.
        packed: (B, C) place in the packed row of the logits that predict the token; 0 where there is none.
        padded: (B, C) the same in rows that are padded on the right to the longest sequence, flattened.
    """

    prompt_lengths: Tensor
    lengths: Tensor
    real: Tensor
    packed: Tensor
    padded: Tensor

    @classmethod
    def of(cls, data: TensorDict) -> ResponseRows:
        """The places of a micro batch.

        Args:
            data: it has `prompts`, `responses` and `input_ids` as jagged nested tensors.

        Raises:
            UsageError: they are not jagged, or their lengths do not add up.
        """
        prompts, responses, sequences = data["prompts"], data["responses"], data["input_ids"]
        if not (prompts.is_nested and responses.is_nested and sequences.is_nested):
            raise UsageError(
                "trainer: expected jagged rows, as verl's V1 trainer makes them, got padded ones; set "
                "trainer.use_v1=True"
            )
        prompt_lengths, lengths = prompts.offsets().diff(), responses.offsets().diff()
        whole = sequences.offsets().diff()
        if not torch.equal(prompt_lengths + lengths, whole) or bool((prompt_lengths == 0).any()):
            raise UsageError(
                "trainer: expected rows of a prompt and its response, got sequences of another length or without a "
                "prompt; observe a run whose agent loops return prompt and response ids"
            )
        column = torch.arange(max(int(lengths.max()), 1), device=lengths.device)
        real = column < lengths[:, None]
        first = (prompt_lengths - 1)[:, None] + column  # within its sequence
        row = torch.arange(len(lengths), device=lengths.device)[:, None]
        packed = (sequences.offsets()[:-1, None] + first).masked_fill(~real, 0)
        padded = (row * int(whole.max()) + first).masked_fill(~real, 0)
        return cls(prompt_lengths, lengths, real, packed, padded)

    def of_sequences(self, values: Tensor) -> Tensor:
        """(B, C) of what verl has for each place of the sequences: jagged, or packed as (total,). 0 elsewhere."""
        flat = values.values() if values.is_nested else values
        return flat[self.packed].masked_fill(~self.real, 0)

    def of_responses(self, values: Tensor) -> Tensor:
        """(B, C) of what verl has for each response token, jagged. 0 elsewhere."""
        if not values.is_nested:
            raise UsageError(f"trainer: expected jagged rows of responses, got a tensor {tuple(values.shape)}")
        rows = torch.zeros(self.real.shape, dtype=values.dtype, device=values.device)
        jagged: Any = values
        if not torch.equal(jagged.offsets().diff(), self.lengths):
            raise UsageError("trainer: expected one value for each response token, got rows of another length")
        rows[self.real] = values.values()
        return rows
