"""What the puzzle tasks share: prompts of four numbers, fixed splits, responses in words, and pretraining text.

A puzzle is a tuple of four numbers below `n_numbers`; its prompt is `a b c d :`, each word one token. A subclass says
which puzzles there are, which responses are correct, what the first error of a response is, and how text is drawn.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..messages import unknown_name
from ..verifiers.verifier import Verdict
from .task import SPLITS, Prompt, prompt_hash
from .tokenizer import word_ids, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["COLON", "END", "PAD", "PROMPT_LENGTH", "Ints", "PuzzleTask"]

PAD, END, COLON = "<pad>", "$", ":"
PROMPT_LENGTH = 5
# Independent of every seed of a run: which prompts are held out must never depend on an experiment.
SPLIT_SEED = 20250601

Ints = NDArray[np.int64]
P = TypeVar("P", bound=tuple[int, ...])


class PuzzleTask(ABC, Generic[P]):
    """A task whose prompts are puzzles of four numbers.

    Args:
        tokenizer: One that has a single token for each word of the task; its own word-level tokenizer if left out.

    Raises:
        ValueError: A word of the task is not a single token of the tokenizer, or there is no end token.

    Attributes:
        name: Name of the task.
        prompt_form: What a prompt looks like, for messages.
        n_numbers: The numbers of prompts and responses are 0 … n_numbers − 1.
        marks: The words besides numbers, padding, end and colon.
        formats: Words that a prompt may end with; those of the splits end with the first.
        split_sizes: Number of puzzles of each split.
        max_new_tokens: Length of the longest correct response, end token included.
        corpus_settings: The settings that `corpus` needs, and what each means.
        words: Every word, in the order of the ids of the task's own tokenizer.
        ids: Token id of each word.
    """

    name: ClassVar[str]
    prompt_form: ClassVar[str]
    n_numbers: ClassVar[int]
    marks: ClassVar[tuple[str, ...]]
    formats: ClassVar[tuple[str, ...]] = (COLON,)
    split_sizes: ClassVar[dict[str, int]]
    max_new_tokens: ClassVar[int]
    corpus_settings: ClassVar[dict[str, str]]

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.words = [PAD, END, COLON, *self.marks, *map(str, range(self.n_numbers))]
        if tokenizer is None:
            self.ids = {word: i for i, word in enumerate(self.words)}
        else:
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    "tokenizer: expected an end-of-sequence token, got one whose eos_token_id is None; "
                    "set tokenizer.eos_token"
                )
            self.ids = {**word_ids(tokenizer, self.words[2:]), END: int(tokenizer.eos_token_id)}
        self._tokenizer = tokenizer
        self._word_of = {i: word for word, i in self.ids.items()}

    @abstractmethod
    def _puzzle(self, numbers: Iterable[int]) -> P:
        """The puzzle of a prompt's numbers."""

    @abstractmethod
    def _draw_puzzle(self, draw: Callable[[], float]) -> P:
        """A candidate for the splits, made from draws that are uniform in [0, 1)."""

    @abstractmethod
    def _responses(self, puzzle: P) -> Iterable[tuple[str, ...]]:
        """Every correct response once, in words without the end token."""

    @abstractmethod
    def _first_error(self, puzzle: P, body: list[str], ended: bool) -> str | None:
        """The first error of a response, from its words before the end token and whether it ended; None if correct."""

    @abstractmethod
    def _draw_rows(self, n: int, rng: np.random.Generator, settings: Mapping[str, float]) -> Ints:
        """`n` rows of the corpus, without those whose puzzle is in a split."""

    def _is_fit(self, puzzle: P) -> bool:
        """Whether a candidate for the splits may be in one: it has a solution."""
        return any(True for _ in self._responses(puzzle))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The given tokenizer, or the word-level one of the task."""
        return self._tokenizer or word_tokenizer(self.words, pad=PAD, eos=END)

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split, in a fixed order. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        prompts = []
        for puzzle in self.splits[split]:
            ids = self.encode_prompt(puzzle)
            text = " ".join([*map(str, puzzle), self.formats[0]])
            prompts.append(Prompt(prompt_hash(ids), ids, text, split, None))
        return prompts

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge a response; the reason names its first error. Raises ValueError for a prompt of another form."""
        words = [self._word(i) for i in response_ids]
        ended = words[-1:] == [END]
        reason = self._first_error(self.parse(prompt_ids), words[:-1] if ended else words, ended)
        return Verdict(reason is None, reason or "correct")

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Every correct response, end token included. Raises ValueError for a prompt of another form."""
        return self._encoded(self._responses(self.parse(prompt_ids)))

    def _encoded(self, responses: Iterable[tuple[str, ...]]) -> list[tuple[int, ...]]:
        """Token ids of responses in words, end token added."""
        ids, end = self.ids, self.ids[END]
        return [(*(ids[word] for word in words), end) for words in responses]

    def parse(self, prompt_ids: Sequence[int]) -> P:
        """The puzzle of a prompt. Raises ValueError where it is not four numbers and a format word."""
        words = [self._word(i) for i in prompt_ids]
        if len(words) != PROMPT_LENGTH or words[-1] not in self.formats or not all(map(str.isdecimal, words[:-1])):
            raise ValueError(
                f"prompt_ids: expected four numbers and a colon, {self.prompt_form!r}, got {' '.join(words)!r}"
            )
        return self._puzzle(map(int, words[:-1]))

    def encode_prompt(self, puzzle: P) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return (*(self.ids[str(n)] for n in puzzle), self.ids[self.formats[0]])

    @cached_property
    def splits(self) -> dict[str, list[P]]:
        """The puzzles of each split: distinct, solvable, and always the same."""
        # `random()` is the one method whose sequence Python promises to keep over its versions.
        draw = random.Random(SPLIT_SEED).random
        seen: set[P] = set()
        splits: dict[str, list[P]] = {split: [] for split in self.split_sizes}
        for split, size in self.split_sizes.items():
            while len(splits[split]) < size:
                puzzle = self._draw_puzzle(draw)
                if puzzle not in seen and self._is_fit(puzzle):
                    seen.add(puzzle)
                    splits[split].append(puzzle)
        return splits

    def fresh_prompts(self, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Prompts drawn as those of the splits are, none of which is in a split; a prompt may come twice.

        Args:
            n: Number of prompts.
            rng: Where the draws come from.

        Returns:
            The token ids of each prompt.
        """
        held_out = {puzzle for split in self.splits.values() for puzzle in split}
        prompts: list[tuple[int, ...]] = []
        while len(prompts) < n:
            puzzle = self._draw_puzzle(rng.random)
            if puzzle not in held_out and self._is_fit(puzzle):
                prompts.append(self.encode_prompt(puzzle))
        return prompts

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and of every split; cached weights fit only a task with the same hash."""
        return hashlib.sha256(repr((self.words, sorted(self.splits.items()))).encode()).hexdigest()

    def corpus(self, n: int, rng: np.random.Generator, settings: Mapping[str, float]) -> Ints:
        """Text to pretrain on, without the prompts of the splits.

        Args:
            n: Number of rows.
            rng: Where the draws come from.
            settings: A value for each of `corpus_settings`.

        Returns:
            Token ids (n, PROMPT_LENGTH + max_new_tokens); a row is a prompt, a response with its end, and padding.

        Raises:
            ValueError: The settings are not those of the task.
        """
        if set(settings) != set(self.corpus_settings):
            raise ValueError(
                f"settings: expected {', '.join(self.corpus_settings)} for the corpus of {self.name!r}, "
                f"got {', '.join(settings) or 'none'}"
            )
        rows = np.empty((0, PROMPT_LENGTH + self.max_new_tokens), dtype=np.int64)
        while len(rows) < n:
            rows = np.concatenate([rows, self._draw_rows(int((n - len(rows)) * 1.1) + 64, rng, settings)])
        return rows[:n]

    def _held_out(self, puzzles: Ints) -> NDArray[np.bool_]:
        """Which of the (n, 4) puzzles are in a split."""
        reserved = np.array([puzzle for split in self.splits.values() for puzzle in split], dtype=np.int64)
        place_values = self.n_numbers ** np.arange(4)
        return np.isin(puzzles @ place_values, reserved @ place_values)

    def _prompt_rows(self, puzzles: Ints) -> Ints:
        """Rows of the corpus that hold only their prompts, with padding after them."""
        rows = np.full((len(puzzles), PROMPT_LENGTH + self.max_new_tokens), self.ids[PAD], dtype=np.int64)
        rows[:, : PROMPT_LENGTH - 1] = self._token_of_number[puzzles]
        rows[:, PROMPT_LENGTH - 1] = self.ids[self.formats[0]]
        return rows

    @cached_property
    def _token_of_number(self) -> Ints:
        return np.array([self.ids[str(n)] for n in range(self.n_numbers)])

    def _word(self, token: int) -> str:
        return self._word_of.get(int(token), f"<{int(token)}>")
