"""The task `path`: walk from S to T in two to four jumps without landing on a forbidden number.

Prompt `S T F1 F2 :`, response `d1 s1 d2 s2 … $` with s_0 = S. A response is correct iff each jump d_i is one of +1 …
+9, each sum is right (s_i = s_{i−1} + d_i), no s_i is forbidden, and `$` follows exactly where T is reached, after two
to four jumps. F1 < F2 lie strictly between S and T, so a prompt is determined by its set (S, T, {F1, F2}).

With D = T − S there are at most 525 correct responses (D = 19, 20), and one where D = 36. D is uniform over the prompts
of the splits. In the pretraining text it has the distribution of a random walk and may end earlier (at 29 for the base
`path`). Longer ways are therefore new to such a base, and the longest ones, which have few solutions, are hard for it.

A row of the text is a random walk (2, 3 or 4 jumps, each uniform) from a uniform S, whose end is T, with two of the
numbers between them as the forbidden ones. A walk may ignore these, and a sum may slip: the jump written before it is
off by one or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, product
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .puzzle import END, PAD, PROMPT_LENGTH, Ints, PuzzleTask

__all__ = ["PathTask", "Puzzle", "SmallPathTask", "Walks", "jump_sequences"]

MIN_JUMPS, MAX_JUMPS = 2, 4


class Puzzle(NamedTuple):
    """What a prompt asks, as numbers; `low < high` are the forbidden ones."""

    start: int
    target: int
    low: int
    high: int


def jump_sequences(distance: int, largest_jump: int) -> list[tuple[int, ...]]:
    """Every sequence of two to four jumps of 1 … `largest_jump` whose sum is `distance`, short ones first.

    >>> jump_sequences(3, 9)
    [(1, 2), (2, 1), (1, 1, 1)]
    """
    return _sequences_by_distance(largest_jump)[distance]


@cache
def _sequences_by_distance(largest_jump: int) -> dict[int, list[tuple[int, ...]]]:
    sequences: dict[int, list[tuple[int, ...]]] = {d: [] for d in range(MAX_JUMPS * largest_jump + 1)}
    for n in range(MIN_JUMPS, MAX_JUMPS + 1):
        for sequence in product(range(1, largest_jump + 1), repeat=n):
            sequences[sum(sequence)].append(sequence)
    return sequences


class Walks(NamedTuple):
    """Walks of the pretraining text, one a row."""

    start: Ints  # (n, 1)
    jumps: Ints  # (n, 4), zero after the end
    forbidden: Ints  # (n, 2), ascending, counted from the start

    def puzzles(self) -> Ints:
        """(n, 4): start, target and the forbidden numbers."""
        target = self.start + self.jumps.sum(axis=1, keepdims=True)
        return np.concatenate([self.start, target, self.start + self.forbidden], axis=1)


class PathTask(PuzzleTask[Puzzle]):
    """Walk from S to T in two to four jumps, avoiding two numbers: `3 12 5 9 :` is answered by `+4 7 +5 12 $`.

    Numbers are 0 to 95, jumps +1 to +9.

    Args:
        tokenizer: See `get_task`.

    Raises:
        ValueError: A word of the task is not a single token of the tokenizer, or there is no end token.

    >>> task = PathTask()
    >>> prompt = task.encode_prompt(Puzzle(3, 12, 5, 9))
    >>> len(task.solutions(prompt)), task.tokenizer.decode(task.solutions(prompt)[0])
    (41, '+1 4 +8 12 $')
    >>> encode = task.tokenizer.encode
    >>> task.verify(prompt, encode("+4 7 +5 12 $")).correct, task.verify(prompt, encode("+2 5 +7 12 $")).reason
    (True, 'forbidden number: 5')
    """

    name = "path"
    prompt_form = "S T F1 F2 :"
    n_numbers = 96
    jumps: ClassVar = tuple(f"+{d}" for d in range(1, 10))
    marks = jumps
    distances: ClassVar = (6, 36)  # smallest and greatest T − S
    split_sizes: ClassVar = {"test": 256, "validation": 256, "train": 2048}
    max_new_tokens = 2 * MAX_JUMPS + 1
    corpus_settings: ClassVar = {
        "slip": "probability that a sum slips: the jump written before it is off by one or two",
        "ignore": "probability that a walk may land on forbidden numbers",
        "longest": "greatest distance T − S",
    }

    def _puzzle(self, numbers: Iterable[int]) -> Puzzle:
        return Puzzle(*numbers)

    def _draw_puzzle(self, draw: Callable[[], float]) -> Puzzle:
        smallest, largest = self.distances
        distance = smallest + int(draw() * (largest - smallest + 1))
        start = int(draw() * (self.n_numbers - distance))
        first, second = 1 + int(draw() * (distance - 1)), 1 + int(draw() * (distance - 2))
        second += second >= first
        low, high = sorted((first, second))
        return Puzzle(start, start + distance, start + low, start + high)

    def _responses(self, puzzle: Puzzle) -> Iterator[tuple[str, ...]]:
        for jumps in self._valid_jumps(puzzle):
            yield self.path_words(puzzle.start, jumps)

    def _valid_jumps(self, puzzle: Puzzle) -> Iterator[tuple[int, ...]]:
        forbidden = {puzzle.low - puzzle.start, puzzle.high - puzzle.start}
        for jumps in jump_sequences(puzzle.target - puzzle.start, len(self.jumps)):
            if forbidden.isdisjoint(accumulate(jumps)):
                yield jumps

    def path_words(self, start: int, jumps: Sequence[int]) -> tuple[str, ...]:
        """The words of these jumps with right sums, without the end token."""
        sums = accumulate(jumps, initial=start)
        next(sums)
        return tuple(word for jump, at in zip(jumps, sums, strict=True) for word in (f"+{jump}", str(at)))

    def _first_error(self, puzzle: Puzzle, body: list[str], ended: bool, opening: int = 0) -> str | None:
        """The first error of the walk that begins after `opening` words."""
        at, n_jumps = puzzle.start, 0
        for i in range(opening, len(body)):
            word, jump_is_due = body[i], (i - opening) % 2 == 0
            if at == puzzle.target and jump_is_due:
                return f"not ended: {word} after the target {at} is reached"
            if jump_is_due:
                if word not in self.jumps:
                    return f"malformed: {word} at position {i}, where a jump is due"
                continue
            if not word.isdecimal():
                return f"malformed: {word} at position {i}, where a number is due"
            jump, written = int(body[i - 1]), int(word)
            if written != at + jump:
                return f"wrong sum: {at} + {jump} is {at + jump}, not {written}"
            at, n_jumps = written, n_jumps + 1
            if error := self._landing_error(puzzle, at, n_jumps):
                return error
        if not ended:
            return "not finished: no end token"
        if (len(body) - opening) % 2:
            return f"malformed: {END} at position {len(body)}, where a number is due"
        return self._ending_error(puzzle, at, n_jumps)

    def _landing_error(self, puzzle: Puzzle, at: int, n_jumps: int) -> str | None:
        if at in (puzzle.low, puzzle.high):
            return f"forbidden number: {at}"
        if at > puzzle.target:
            return f"overshoot: {at} is beyond the target {puzzle.target}"
        if n_jumps > MAX_JUMPS:
            return f"too many jumps: more than {MAX_JUMPS}"
        return None

    def _ending_error(self, puzzle: Puzzle, at: int, n_jumps: int) -> str | None:
        if at < puzzle.target:
            return f"stopped short: at {at}, before the target {puzzle.target}"
        if n_jumps < MIN_JUMPS:
            return f"too few jumps: {n_jumps}, at least {MIN_JUMPS} are due"
        return None

    def _draw_rows(self, n: int, rng: np.random.Generator, settings: Mapping[str, float]) -> Ints:
        walks = self._walks(n, rng, settings["ignore"], settings["longest"])
        rows = self._prompt_rows(walks.puzzles())
        self._write(rows, PROMPT_LENGTH, walks, self._slipped(walks.jumps, rng, settings["slip"]))
        return rows

    def _write(self, rows: Ints, first: int, walks: Walks, written: Ints) -> None:
        """Write walks into rows from column `first` on, with the jumps `written` before the sums."""
        has_jump, end = walks.jumps > 0, first + 2 * MAX_JUMPS
        sums = np.where(has_jump, walks.start + walks.jumps.cumsum(axis=1), 0)
        rows[:, first:end:2] = np.where(has_jump, self._token_of_jump[written], self.ids[PAD])
        rows[:, first + 1 : end : 2] = np.where(has_jump, self._token_of_number[sums], self.ids[PAD])
        rows[np.arange(len(rows)), first + 2 * has_jump.sum(axis=1)] = self.ids[END]

    def _walks(self, n: int, rng: np.random.Generator, ignore: float, longest: float) -> Walks:
        """`n` walks, without those whose puzzle is in a split."""
        walks = Walks(*(np.empty((n, width), dtype=np.int64) for width in (1, MAX_JUMPS, 2)))
        ignores = rng.random(n) < ignore
        todo = np.arange(n)
        while len(todo):
            new = _draw_walks(len(todo), rng, self.n_numbers, len(self.jumps))
            for column, values in zip(walks, new, strict=True):
                column[todo] = values
            distance = new.jumps.sum(axis=1)
            fits = (distance >= self.distances[0]) & (distance <= longest)
            todo = todo[~(fits & (ignores[todo] | ~_lands_on(new.jumps, new.forbidden)))]
        keep = ~self._held_out(walks.puzzles())
        return Walks(*(column[keep] for column in walks))

    def _slipped(self, jumps: Ints, rng: np.random.Generator, probability: float) -> Ints:
        """The jumps as they are written: each is off by one or two with this probability, but still a valid jump."""
        slip = rng.integers(1, 3, jumps.shape) * rng.choice([-1, 1], jumps.shape)
        slip = np.where((jumps + slip < 1) | (jumps + slip > len(self.jumps)), -slip, slip)
        return np.where((jumps > 0) & (rng.random(jumps.shape) < probability), jumps + slip, jumps)

    @property
    def _token_of_jump(self) -> Ints:
        """Token of each jump; padding for none."""
        return np.array([self.ids[PAD], *(self.ids[jump] for jump in self.jumps)])


class SmallPathTask(PathTask):
    """`path` with numbers below 24 and jumps up to +4, for bases that a test can afford to pretrain."""

    name = "path-small"
    n_numbers = 24
    jumps: ClassVar = tuple(f"+{d}" for d in range(1, 5))
    marks = jumps
    distances: ClassVar = (5, 15)
    # There are only 114 prompts at the smallest distance: these sizes leave half of them for pretraining.
    split_sizes: ClassVar = {"test": 128, "validation": 128, "train": 256}


def _draw_walks(n: int, rng: np.random.Generator, n_numbers: int, largest_jump: int) -> Walks:
    length = rng.integers(MIN_JUMPS, MAX_JUMPS + 1, (n, 1))
    jumps = rng.integers(1, largest_jump + 1, (n, MAX_JUMPS)) * (np.arange(MAX_JUMPS) < length)
    distance = jumps.sum(axis=1, keepdims=True)
    start = rng.integers(0, n_numbers - distance)
    # Walks too short for two numbers between their ends are drawn again; the bounds only keep the draw defined.
    first = rng.integers(1, np.maximum(distance, 3))
    second = rng.integers(1, np.maximum(distance - 1, 2))
    second += second >= first
    return Walks(start, jumps, np.sort(np.concatenate([first, second], axis=1), axis=1))


def _lands_on(jumps: Ints, forbidden: Ints) -> NDArray[np.bool_]:
    """Whether a walk lands on a forbidden number (which lie before the target, so ended walks do not matter)."""
    sums = jumps.cumsum(axis=1)
    return (sums[:, :, None] == forbidden[:, None, :]).any(axis=(1, 2))
