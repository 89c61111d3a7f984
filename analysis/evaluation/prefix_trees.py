"""The prefix trees of given responses: which tokens a walk over them forwards, level by level.

Made once for a list of prompts and their responses, and walked as often as they are evaluated (`enumeration`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..errors import UsageError

__all__ = ["Level", "PrefixTrees", "TreeChunk"]

_PAD = -1  # shorter than any token id: a response sorts before its own continuations


class Level(NamedTuple):
    """The distinct prefixes of d response tokens that some response goes on from: the nodes at depth d."""

    rows: np.ndarray  # (A,) responses with more than d tokens, ascending
    node: np.ndarray  # (A,) the node that each of them passes through
    first: np.ndarray  # (n_nodes,) one response through each node

    def of_row(self, rows: np.ndarray) -> np.ndarray:
        """The node of some of the responses."""
        return self.node[np.searchsorted(self.rows, rows)]


class TreeChunk:
    """Responses that are walked together: prompts of one length, responses sorted by (prompt, tokens).

    Attributes:
        prompts: indices of the distinct prompts.
        prompt_row: (N,) which of them each response belongs to.
        response: (N,) index of the response among all responses.
        tokens: (N, L) padded with −1.
        lengths: (N,)
        inputs: (len(prompts), P) the prompts' token ids.
    """

    def __init__(
        self,
        prompts: list[int],
        prompt_row: np.ndarray,
        response: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        inputs: np.ndarray,
    ) -> None:
        self.prompts, self.prompt_row, self.response = prompts, prompt_row, response
        self.tokens, self.lengths, self.inputs = tokens, lengths, inputs

    @cached_property
    def levels(self) -> list[Level]:
        """Nodes of the prefix tree: neighbours in the order share a node at depth d if their first d tokens agree."""
        same_prompt = self.prompt_row[1:] == self.prompt_row[:-1]
        agree = np.cumprod(self.tokens[1:] == self.tokens[:-1], axis=1).sum(1)
        shared = np.concatenate([[-1], np.where(same_prompt, agree, -1)])
        levels = []
        for depth in range(self.tokens.shape[1]):
            rows = np.flatnonzero(self.lengths > depth)
            _, first, node = np.unique(np.cumsum(shared < depth)[rows], return_index=True, return_inverse=True)
            levels.append(Level(rows, node, rows[first]))
        return levels

    @cached_property
    def steps(self) -> list[int]:
        """How many levels each forward pass after the first covers: those in which no node branches."""
        steps, depth = [], 1
        while depth < self.tokens.shape[1]:
            steps.append(self._unbranched(depth))
            depth += steps[-1]
        return steps

    def _unbranched(self, depth: int) -> int:
        """How many levels from `depth` on have the same nodes: every node goes on, by exactly one token."""
        levels, count = self.levels, 1
        while depth + count < len(levels):
            ancestors = np.unique(levels[depth].of_row(levels[depth + count].first))
            if not len(ancestors) == len(levels[depth].first) == len(levels[depth + count].first):
                break
            count += 1
        return count


class PrefixTrees:
    """The trees of the responses to some prompts, in chunks whose levels have at most `max_rows` nodes.

    Attributes:
        counts: responses of each prompt.
        chunks: what is walked at a time.

    Raises:
        UsageError: a repeated response.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], max_rows: int
    ) -> None:
        self.counts = [len(group) for group in responses]
        self.chunks = list(_chunks(prompts, responses, max_rows))


def _chunks(
    prompts: Sequence[Sequence[int]], solutions: Sequence[Sequence[Sequence[int]]], max_rows: int
) -> Iterator[TreeChunk]:
    """Sorted responses cut so that no level of the prefix tree of a chunk has more than max_rows nodes."""
    starts = np.cumsum([0, *(len(group) for group in solutions)])
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        if len(solutions[i]):
            by_length.setdefault(len(prompt), []).append(i)
    for same_length in by_length.values():
        group = [solution for i in same_length for solution in solutions[i]]
        owner = np.repeat(same_length, [len(solutions[i]) for i in same_length])
        index = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in same_length])
        lengths = np.fromiter(map(len, group), np.int64, len(group))
        tokens = np.full((len(group), lengths.max()), _PAD, dtype=np.int64)
        tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(group), np.int64)
        order = np.lexsort((*tokens.T[::-1], owner))
        owner, index, tokens, lengths = owner[order], index[order], tokens[order], lengths[order]
        repeated = (owner[1:] == owner[:-1]) & (tokens[1:] == tokens[:-1]).all(1)
        if repeated.any():
            at = int(np.argmax(repeated))
            raise UsageError(
                f"solutions: expected distinct responses, got {tokens[at, : lengths[at]].tolist()} twice "
                f"for prompt {owner[at]}; its probability would count twice"
            )
        # a node of the tree lies on at least one response, so max_rows responses give at most max_rows nodes a level
        for low in range(0, len(owner), max_rows):
            part = slice(low, low + max_rows)
            members, prompt_row = np.unique(owner[part], return_inverse=True)
            yield TreeChunk(
                members.tolist(),
                prompt_row,
                index[part],
                tokens[part, : lengths[part].max()],
                lengths[part],
                np.array([list(prompts[i]) for i in members]),
            )
