"""Prompts with all their solutions, and the distribution of each token of a solution given the tokens before it.

Where a response is uniform over the correct ones,

    q(v | x, y_<t) = #{solutions that begin with y_<t v} / #{solutions that begin with y_<t}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tasks.puzzle import Ints, PuzzleTask

__all__ = ["SolvedPrompts"]


class SolvedPrompts:
    """Prompts (n, PROMPT_LENGTH) with all their solutions, and how many each has."""

    def __init__(
        self, task: PuzzleTask[Any], prompts: Sequence[Sequence[int]], solutions: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        self.task = task
        self.prompts: Ints = np.array(prompts, dtype=np.int64)
        self.counts: Ints = np.array([len(responses) for responses in solutions])
        width, pad = task.max_new_tokens, task.tokenizer.pad_token_id
        # Vocabularies have about a hundred words: one byte per token keeps millions of responses small.
        padded = ([*response, *[pad] * (width - len(response))] for responses in solutions for response in responses)
        self._responses = np.array(list(padded), dtype=np.uint8)
        self._first = np.concatenate([[0], self.counts.cumsum()[:-1]])

    @classmethod
    def drawn(cls, task: PuzzleTask[Any], n: int, rng: np.random.Generator) -> SolvedPrompts:
        """`n` fresh prompts of the task, in ascending order of the span of their numbers (largest minus smallest)."""
        prompts = task.fresh_prompts(n, rng)
        spans = [max(puzzle) - min(puzzle) for puzzle in map(task.parse, prompts)]
        ascending = [prompts[i] for i in np.argsort(spans, kind="stable")]
        return cls(task, ascending, [task.solutions(prompt) for prompt in ascending])

    def __len__(self) -> int:
        return len(self.prompts)

    def draw(self, which: Ints, rng: np.random.Generator, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Draw one solution of each chosen prompt, uniformly.

        Args:
            which: Indices of the prompts, (n,).
            rng: Where the draws come from.
            width: Response tokens of a row; all of them where left out.

        Returns:
            Rows of text, (n, PROMPT_LENGTH + width), and the distribution of each response token given the tokens
            before it, (n, width, vocabulary), 0 under padding.
        """
        rows = self._first[which] + rng.integers(0, self.counts[which])
        chosen = self._responses[rows, :width].astype(np.int64)
        text = np.concatenate([self.prompts[which], chosen], axis=1)
        return torch.from_numpy(text), torch.from_numpy(self._distributions(which, chosen))

    def _distributions(self, which: Ints, chosen: Ints) -> NDArray[np.float32]:
        """Fractions of the next tokens among the solutions of the prompt that agree with the row so far."""
        counts, (n, width), size = self.counts[which], chosen.shape, len(self.task.words)
        row = np.repeat(np.arange(n), counts)
        within = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
        others = self._responses[np.repeat(self._first[which], counts) + within, :width].astype(np.int64)
        agree = np.ones(others.shape, dtype=np.bool_)
        np.logical_and.accumulate(others[:, :-1] == chosen[row, :-1], axis=1, out=agree[:, 1:])
        cell = (row[:, None] * width + np.arange(width)) * size + others
        distributions = np.bincount(cell[agree], minlength=n * width * size).reshape(n, width, size).astype(np.float32)
        distributions /= distributions.sum(axis=-1, keepdims=True)
        distributions[chosen == self.task.tokenizer.pad_token_id] = 0.0
        return distributions
