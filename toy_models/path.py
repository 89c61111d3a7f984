"""The «path» task: walk from S to T in two to four jumps without landing on a forbidden number.

Prompt `S T F1 F2 :`, response `d1 s1 d2 s2 … $` with s_0 = S. A response is correct iff each jump d_i is one of +1 …
+9, each sum is right (s_i = s_{i−1} + d_i), no s_i is forbidden, and `$` follows exactly where T is reached, after two
to four jumps. F1 < F2 lie strictly between S and T, so a prompt is its set (S, T, {F1, F2}).

With D = T − S there are at most 525 correct responses (D = 19, 20) and one where D = 36. D is uniform over the prompts
of the splits, while in the pretraining text (`corpus.py`) it is that of a random walk and ends at 29: longer ways are
new to the base, and the longest, with few solutions, are hard for it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import accumulate, product
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from .task import SPLITS, Prompt, Verdict, prompt_hash, unknown_name
from .tokenizer import word_ids, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PAD", "PathTask", "Puzzle", "SmallPathTask", "jump_sequences"]

PAD, END, COLON = "<pad>", "$", ":"
MIN_JUMPS, MAX_JUMPS = 2, 4
# Fixed once, apart from every seed of a run: which prompts are held out must never depend on an experiment.
SPLIT_SEED = 20250601


class Puzzle(NamedTuple):
    """What a prompt asks, as numbers; `low < high` are the forbidden ones."""

    start: int
    target: int
    low: int
    high: int


def jump_sequences(distance: int, largest_jump: int) -> list[tuple[int, ...]]:
    """Every sequence of two to four jumps of 1 … `largest_jump` that covers `distance`, short ones first.

    >>> jump_sequences(3, 9)
    [(1, 2), (2, 1), (1, 1, 1)]
    """
    return _sequences_by_distance(largest_jump)[distance]


@cache
def _sequences_by_distance(largest_jump: int) -> dict[int, list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = {d: [] for d in range(MAX_JUMPS * largest_jump + 1)}
    for n in range(MIN_JUMPS, MAX_JUMPS + 1):
        for sequence in product(range(1, largest_jump + 1), repeat=n):
            found[sum(sequence)].append(sequence)
    return found


class PathTask:
    """The task in its own 108 tokens, or in those of a tokenizer that has a token for each of its words.

    Raises ValueError for a tokenizer without a token for some word, or without an end token.
    """

    name = "path"
    n_numbers = 96
    largest_jump = 9
    distances = (6, 36)  # least and greatest T − S
    corpus_distances = (6, 29)  # what pretraining shows of them
    split_sizes: ClassVar = {"test": 256, "validation": 256, "train": 2048}
    max_new_tokens = 2 * MAX_JUMPS + 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.words = [PAD, END, COLON]
        self.words += [f"+{d}" for d in range(1, self.largest_jump + 1)]
        self.words += [str(n) for n in range(self.n_numbers)]
        if tokenizer is None:
            self.ids = {word: i for i, word in enumerate(self.words)}
        else:
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    "tokenizer: expected an end-of-sequence token, received one whose eos_token_id is None; "
                    "set tokenizer.eos_token"
                )
            self.ids = {**word_ids(tokenizer, self.words[2:]), END: int(tokenizer.eos_token_id)}
        self._tokenizer = tokenizer
        self._word_of = {i: word for word, i in self.ids.items()}
        self._jump_of = {self.ids[f"+{d}"]: d for d in range(1, self.largest_jump + 1)}
        self._number_of = {self.ids[str(n)]: n for n in range(self.n_numbers)}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer or word_tokenizer(self.words, pad=PAD, eos=END)

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split, in a fixed order. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        return [self._prompt(puzzle, split) for puzzle in self.splits[split]]

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge a response; the reason names its first error. Raises ValueError for a prompt of another form."""
        reason = self._first_error(self.parse(prompt_ids), [int(i) for i in response_ids])
        return Verdict(reason is None, reason or "correct")

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Every correct response, end token included. Raises ValueError for a prompt of another form."""
        puzzle = self.parse(prompt_ids)
        return [self.encode_path(puzzle.start, jumps) for jumps in self._valid_jumps(puzzle)]

    def parse(self, prompt_ids: Sequence[int]) -> Puzzle:
        """The numbers of a prompt. Raises ValueError where it is not `S T F1 F2 :`."""
        ids = [int(i) for i in prompt_ids]
        if len(ids) != 5 or ids[4] != self.ids[COLON] or not all(i in self._number_of for i in ids[:4]):
            words = " ".join(self._word_of.get(i, f"<{i}>") for i in ids)
            raise ValueError(f"prompt_ids: expected four numbers and a colon, 'S T F1 F2 :', received {words!r}")
        return Puzzle(*(self._number_of[i] for i in ids[:4]))

    def encode_prompt(self, puzzle: Puzzle) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return (*(self.ids[str(n)] for n in puzzle), self.ids[COLON])

    def encode_path(self, start: int, jumps: Sequence[int]) -> tuple[int, ...]:
        """Token ids of the response that makes these jumps with right sums, end token included."""
        ids, at = [], start
        for jump in jumps:
            at += jump
            ids += [self.ids[f"+{jump}"], self.ids[str(at)]]
        return (*ids, self.ids[END])

    @cached_property
    def splits(self) -> dict[str, list[Puzzle]]:
        """The puzzles of each split: distinct, solvable, the same ever and everywhere."""
        # `random()` is the one method whose sequence Python promises to keep over its versions.
        draw = random.Random(SPLIT_SEED).random
        smallest, largest = self.distances
        seen: set[Puzzle] = set()
        splits: dict[str, list[Puzzle]] = {split: [] for split in self.split_sizes}
        for split, size in self.split_sizes.items():
            while len(splits[split]) < size:
                distance = smallest + int(draw() * (largest - smallest + 1))
                start = int(draw() * (self.n_numbers - distance))
                first, second = 1 + int(draw() * (distance - 1)), 1 + int(draw() * (distance - 2))
                second += second >= first
                low, high = sorted((first, second))
                puzzle = Puzzle(start, start + distance, start + low, start + high)
                if puzzle not in seen and any(self._valid_jumps(puzzle)):
                    seen.add(puzzle)
                    splits[split].append(puzzle)
        return splits

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and of every split: what must agree for cached weights to fit."""
        return hashlib.sha256(repr((self.words, sorted(self.splits.items()))).encode()).hexdigest()

    def _prompt(self, puzzle: Puzzle, split: str) -> Prompt:
        ids = self.encode_prompt(puzzle)
        text = " ".join([*map(str, puzzle), COLON])
        return Prompt(prompt_hash(ids), ids, text, split, None)

    def _valid_jumps(self, puzzle: Puzzle) -> Iterator[tuple[int, ...]]:
        forbidden = {puzzle.low - puzzle.start, puzzle.high - puzzle.start}
        for jumps in jump_sequences(puzzle.target - puzzle.start, self.largest_jump):
            if forbidden.isdisjoint(accumulate(jumps)):
                yield jumps

    def _first_error(self, puzzle: Puzzle, response: list[int]) -> str | None:
        end, at, n_jumps = self.ids[END], puzzle.start, 0
        ended = bool(response) and response[-1] == end
        body = response[:-1] if ended else response
        for i, token in enumerate(body):
            kind, known = ("a jump", self._jump_of) if i % 2 == 0 else ("a number", self._number_of)
            if at == puzzle.target and i % 2 == 0:
                return f"not ended: {self._word(token)} after the target {at} is reached"
            if token not in known:
                return f"malformed: {self._word(token)} at position {i}, where {kind} is due"
            if i % 2 == 0:
                continue
            jump, written = self._jump_of[body[i - 1]], self._number_of[token]
            if written != at + jump:
                return f"wrong sum: {at} + {jump} is {at + jump}, not {written}"
            at, n_jumps = written, n_jumps + 1
            if at in (puzzle.low, puzzle.high):
                return f"forbidden number: {at}"
            if at > puzzle.target:
                return f"overshoot: {at} is beyond the target {puzzle.target}"
            if n_jumps > MAX_JUMPS:
                return f"too many jumps: more than {MAX_JUMPS}"
        if not ended:
            return "not finished: no end token"
        if len(body) % 2:
            return f"malformed: {END} at position {len(body)}, where a number is due"
        if at < puzzle.target:
            return f"stopped short: at {at}, before the target {puzzle.target}"
        if n_jumps < MIN_JUMPS:
            return f"too few jumps: {n_jumps}, at least {MIN_JUMPS} are due"
        return None

    def _word(self, token: int) -> str:
        return self._word_of.get(token, f"<{token}>")


class SmallPathTask(PathTask):
    """The same task on fewer and smaller numbers, for bases that a test can afford to pretrain."""

    name = "path-small"
    n_numbers = 24
    largest_jump = 4
    distances = (5, 15)
    corpus_distances = (5, 15)
    # There are but 114 prompts at the least distance: these sizes leave half of them to pretraining.
    split_sizes: ClassVar = {"test": 128, "validation": 128, "train": 256}
