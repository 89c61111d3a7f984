"""The task `two-modes`: `path`, answered silently or aloud.

A silent response names only the jumps, `+3 +5 $`: the present number must be kept in mind. A response aloud begins with
`aloud` and says where each jump leads, `aloud +3 13 +5 18 $`, as in `path`. Both are correct under the rules of `path`,
whether the prompt is `S T F1 F2 :` or, in the other format, `S T F1 F2 aloud:`. Prompts of the splits have the plain
colon.

The pretraining text walks aloud mostly after `aloud:` and seldom after the plain colon, and errs much more often where
it is silent. A base of this task therefore has an ability that it rarely uses: the mode in which it does well is one
that it hardly enters unless the prompt asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from .path import MAX_JUMPS, PathTask, Puzzle, Walks
from .puzzle import COLON, END, PAD, PROMPT_LENGTH, Ints

__all__ = ["SmallTwoModesTask", "TwoModesTask"]

ALOUD, TAG = "aloud", "aloud:"


class TwoModesTask(PathTask):
    """`path`, answered silently (`+3 +5 $`) or aloud (`aloud +3 13 +5 18 $`); both are correct.

    Numbers are 0 to 47, jumps +1 to +6. The named mode (`mode_prefix`) is that of the responses aloud.

    Args:
        tokenizer: See `get_task`.

    Raises:
        ValueError: A word of the task is not a single token of the tokenizer, or there is no end token.
    """

    name = "two-modes"
    n_numbers = 48
    jumps: ClassVar = tuple(f"+{d}" for d in range(1, 7))
    marks = (*jumps, ALOUD, TAG)
    formats = (COLON, TAG)
    distances: ClassVar = (6, 20)
    split_sizes: ClassVar = {"test": 256, "validation": 256, "train": 1024}
    max_new_tokens = PathTask.max_new_tokens + 1
    corpus_settings: ClassVar = {
        **PathTask.corpus_settings,
        "misstep": "probability that a silent jump is off by one or two",
        "tagged": "fraction of prompts with the format tag",
        "aloud_tagged": "probability of walking aloud after the tag",
        "aloud_plain": "probability of walking aloud after the plain colon",
    }

    @property
    def mode_prefix(self) -> tuple[int, ...]:
        """The token that a response aloud begins with."""
        return (self.ids[ALOUD],)

    def tagged(self, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """The prompt in the format that asks for a response aloud."""
        return (*prompt_ids[:-1], self.ids[TAG])

    def _responses(self, puzzle: Puzzle) -> Iterator[tuple[str, ...]]:
        for jumps in self._valid_jumps(puzzle):
            yield tuple(f"+{jump}" for jump in jumps)
            yield (ALOUD, *self.path_words(puzzle.start, jumps))

    def _first_error(self, puzzle: Puzzle, body: list[str], ended: bool, opening: int = 0) -> str | None:
        if body[:1] == [ALOUD]:
            return super()._first_error(puzzle, body, ended, opening=1)
        at = puzzle.start
        for i, word in enumerate(body):
            if at == puzzle.target:
                return f"not ended: {word} after the target {at} is reached"
            if word not in self.jumps:
                return f"malformed: {word} at position {i}, where a jump is due"
            at += int(word)
            if error := self._landing_error(puzzle, at, i + 1):
                return error
        return self._ending_error(puzzle, at, len(body)) if ended else "not finished: no end token"

    def _draw_rows(self, n: int, rng: np.random.Generator, settings: Mapping[str, float]) -> Ints:
        walks = self._walks(n, rng, settings["ignore"], settings["longest"])
        rows = self._prompt_rows(walks.puzzles())
        tagged = rng.random(len(rows)) < settings["tagged"]
        rows[tagged, PROMPT_LENGTH - 1] = self.ids[TAG]
        share = np.where(tagged, settings["aloud_tagged"], settings["aloud_plain"])
        aloud = rng.random(len(rows)) < share

        aloud_rows, aloud_walks = rows[aloud], Walks(*(column[aloud] for column in walks))
        aloud_rows[:, PROMPT_LENGTH] = self.ids[ALOUD]
        self._write(aloud_rows, PROMPT_LENGTH + 1, aloud_walks, self._slipped(aloud_walks.jumps, rng, settings["slip"]))
        rows[aloud] = aloud_rows

        silent, jumps = rows[~aloud], walks.jumps[~aloud]
        has_jump = jumps > 0
        written = self._token_of_jump[self._slipped(jumps, rng, settings["misstep"])]
        silent[:, PROMPT_LENGTH : PROMPT_LENGTH + MAX_JUMPS] = np.where(has_jump, written, self.ids[PAD])
        silent[np.arange(len(silent)), PROMPT_LENGTH + has_jump.sum(axis=1)] = self.ids[END]
        rows[~aloud] = silent
        return rows


class SmallTwoModesTask(TwoModesTask):
    """`two-modes` with numbers below 24 and jumps up to +4, for bases that a test can afford to pretrain."""

    name = "two-modes-small"
    n_numbers = 24
    jumps: ClassVar = tuple(f"+{d}" for d in range(1, 5))
    marks = (*jumps, ALOUD, TAG)
    distances: ClassVar = (5, 15)
    split_sizes: ClassVar = {"test": 64, "validation": 64, "train": 128}
