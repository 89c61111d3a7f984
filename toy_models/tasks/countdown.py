"""The task `countdown`: reach a target by arithmetic on three numbers, step by step.

Prompt `a b c T :` with a ≤ b ≤ c, response `x o y = r … $`: one or two steps. A step takes two of the available
numbers (the three of the prompt, and the result of an earlier step), o is one of + − ×, and the result r replaces the
two. A response is correct iff each r is right and positive, the last one is T, and `$` follows as soon as a result is
T. Two of the three numbers may be enough, so responses have 6 or 11 tokens. `2 + 3 = 5` and `3 + 2 = 5` are two
responses.

Puzzles of the splits have at least four correct responses; T is none of the three numbers, and otherwise uniform.

A row of the pretraining text is a random play from three uniform numbers, and T is what it ends with. A result may slip
(it is off by one or two, and the play continues from there), and a second step may reuse a number that the first one
used up in place of the one that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import combinations_with_replacement, permutations
from typing import ClassVar, NamedTuple

import numpy as np

from .puzzle import END, PAD, PROMPT_LENGTH, Ints, PuzzleTask

__all__ = ["N_STARTING", "Countdown", "CountdownTask", "SmallCountdownTask"]

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
}
EQUALS = "="
MAX_STEPS = 2
STEP_LENGTH = 5
FEWEST_SOLUTIONS = 4
N_STARTING = 3  # numbers of a prompt besides the target


class Countdown(NamedTuple):
    """What a prompt asks, as numbers."""

    a: int
    b: int
    c: int
    target: int


class CountdownTask(PuzzleTask[Countdown]):
    """Reach a target by arithmetic on three numbers: `2 3 7 13 :` is answered by `2 * 3 = 6 7 + 6 = 13 $`.

    Numbers are 1 to 15, targets below 100.

    Args:
        tokenizer: See `get_task`.

    Raises:
        ValueError: A word of the task is not a single token of the tokenizer, or there is no end token.

    >>> task = CountdownTask()
    >>> prompt = task.encode_prompt(Countdown(2, 3, 7, 13))
    >>> responses = [task.tokenizer.decode(ids) for ids in task.solutions(prompt)]
    >>> len(responses), responses[0]
    (4, '2 * 3 = 6 7 + 6 = 13 $')
    """

    name = "countdown"
    prompt_form = "a b c T :"
    n_numbers = 100
    largest_start = 15
    marks = (*OPERATIONS, EQUALS)
    split_sizes: ClassVar = {"test": 256, "validation": 256, "train": 1024}
    max_new_tokens = MAX_STEPS * STEP_LENGTH + 1
    corpus_settings: ClassVar = {
        "slip": "probability that a result slips: it is off by one or two",
        "reuse": "probability that a second step takes a number that is used up",
        "largest": "greatest target T",
    }

    def _puzzle(self, numbers: Iterable[int]) -> Countdown:
        return Countdown(*numbers)

    def _draw_puzzle(self, draw: Callable[[], float]) -> Countdown:
        a, b, c = sorted(1 + int(draw() * self.largest_start) for _ in range(N_STARTING))
        return Countdown(a, b, c, 1 + int(draw() * (self.n_numbers - 1)))

    def _is_fit(self, puzzle: Countdown) -> bool:
        start = puzzle[:N_STARTING]
        if start not in self._counts:
            self._counts[start] = {target: len(ways) for target, ways in self._ways(start).items()}
        return puzzle.target not in start and self._counts[start].get(puzzle.target, 0) >= FEWEST_SOLUTIONS

    @cached_property
    def _counts(self) -> dict[tuple[int, ...], dict[int, int]]:
        """Number of ways to each target, for each triple seen so far: the splits draw the same triples often."""
        return {}

    def _responses(self, puzzle: Countdown) -> Iterable[tuple[str, ...]]:
        return self._ways(puzzle[:N_STARTING]).get(puzzle.target, ())

    def _ways(self, numbers: tuple[int, ...]) -> dict[int, dict[tuple[str, ...], None]]:
        """Every way to every target, in order of discovery; equal numbers give equal ways, which count once."""
        ways: dict[int, dict[tuple[str, ...], None]] = {}
        for i, j in permutations(range(len(numbers)), 2):
            rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
            for sign, operation in OPERATIONS.items():
                x, y = numbers[i], numbers[j]
                result = operation(x, y)
                if not 0 < result < self.n_numbers:
                    continue
                step = (str(x), sign, str(y), EQUALS, str(result))
                ways.setdefault(result, {})[step] = None
                if not rest:
                    continue
                for target, others in self._ways((*rest, result)).items():
                    if target != result:  # it would have ended with the first step
                        ways.setdefault(target, {}).update(dict.fromkeys((*step, *other) for other in others))
        return ways

    def solved_puzzles(self, largest: int) -> Iterator[tuple[Countdown, list[tuple[int, ...]]]]:
        """Every solvable puzzle outside the splits whose numbers are at most `largest`, with all its correct responses.

        Puzzles of the splits have several solutions and numbers up to `largest_start`; these need not.
        """
        held_out = {puzzle for split in self.splits.values() for puzzle in split}
        for start in combinations_with_replacement(range(1, largest + 1), 3):
            for target, ways in self._ways(start).items():
                puzzle = Countdown(*start, target)
                if target not in start and puzzle not in held_out:
                    yield puzzle, self._encoded(ways)

    def _first_error(self, puzzle: Countdown, body: list[str], ended: bool) -> str | None:
        numbers, result = list(puzzle[:N_STARTING]), None
        for i, word in enumerate(body):
            position = i % STEP_LENGTH
            if position == 0 and result == puzzle.target:
                return f"not ended: {word} after the target {result} is reached"
            if position == 1 or position == 3:
                if word not in (OPERATIONS if position == 1 else (EQUALS,)):
                    due = "an operation" if position == 1 else EQUALS
                    return f"malformed: {word} at position {i}, where {due} is due"
                continue
            if not word.isdecimal():
                return f"malformed: {word} at position {i}, where a number is due"
            if position != 4:
                if int(word) not in numbers:
                    return f"not there: {word} is none of {', '.join(map(str, numbers))}"
                numbers.remove(int(word))
                continue
            x, sign, y = body[i - 4 : i - 1]
            result = OPERATIONS[sign](int(x), int(y))
            if int(word) != result:
                return f"wrong result: {x} {sign} {y} is {result}, not {word}"
            if result == 0:
                return f"not positive: {x} {sign} {y} is 0"
            numbers.append(result)
            if len(numbers) == 1 and result != puzzle.target:
                return f"missed: {result} is left, not the target {puzzle.target}"
        if not ended:
            return "not finished: no end token"
        if len(body) % STEP_LENGTH:
            return f"malformed: {END} at position {len(body)}, where a step is under way"
        if result != puzzle.target:
            return f"stopped short: {', '.join(map(str, numbers))} are left, the target {puzzle.target} is not reached"
        return None

    def _draw_rows(self, n: int, rng: np.random.Generator, settings: Mapping[str, float]) -> Ints:
        columns = np.empty((n, 1 + 3 + MAX_STEPS * 4), dtype=np.int64)
        reuses = rng.random(n) < settings["reuse"]
        todo = np.arange(n)
        while len(todo):
            columns[todo], fits = self._draw_plays(len(todo), rng, settings["slip"], reuses[todo])
            todo = todo[~(fits & (_target(columns[todo]) <= settings["largest"]))]
        puzzles = np.concatenate([columns[:, 1:4], _target(columns)[:, None]], axis=1)
        keep = ~self._held_out(puzzles)
        columns, rows = columns[keep], self._prompt_rows(puzzles[keep])
        sign = np.array([self.ids[word] for word in OPERATIONS])
        two = columns[:, 0] == 2
        for step in range(MAX_STEPS):
            x, o, y, r = columns[:, 4 + 4 * step : 8 + 4 * step].T
            number = self._token_of_number
            words = np.stack([number[x], sign[o], number[y], np.full_like(x, self.ids[EQUALS]), number[r]], axis=1)
            column = PROMPT_LENGTH + step * STEP_LENGTH
            rows[:, column : column + STEP_LENGTH] = np.where(two[:, None] | (step == 0), words, self.ids[PAD])
        rows[np.arange(len(rows)), PROMPT_LENGTH + STEP_LENGTH * columns[:, 0]] = self.ids[END]
        return rows

    def _draw_plays(self, n: int, rng: np.random.Generator, slip: float, reuses: np.ndarray) -> tuple[Ints, np.ndarray]:
        """Plays (n, 12): number of steps, starting numbers, x, operation, y and r of each step; and which are valid."""
        steps = rng.integers(1, MAX_STEPS + 1, n)
        start = np.sort(rng.integers(1, self.largest_start + 1, (n, 3)), axis=1)
        order = rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)
        x, y, remaining = np.take_along_axis(start, order, axis=1).T
        first = self._draw_step(x, y, rng, slip)
        result = first[:, 3]
        other = np.where(reuses, np.where(rng.random(n) < 0.5, x, y), remaining)
        swap = rng.random(n) < 0.5
        second = self._draw_step(np.where(swap, other, result), np.where(swap, result, other), rng, slip)
        second[steps == 1] = 0
        plays = np.concatenate([steps[:, None], start, first, second], axis=1)
        target = _target(plays)
        fits = (result > 0) & (result < self.n_numbers) & (target > 0) & (target < self.n_numbers)
        fits &= (start != target[:, None]).all(axis=1) & ((steps == 1) | (result != target))
        return plays, fits

    @staticmethod
    def _draw_step(x: Ints, y: Ints, rng: np.random.Generator, slip: float) -> Ints:
        """x, a random operation, y and its result, which slips with that probability: (n, 4)."""
        o = rng.integers(0, len(OPERATIONS), len(x))
        right = np.choose(o, [operation(x, y) for operation in OPERATIONS.values()])  # type: ignore[arg-type]
        off = rng.integers(1, 3, len(x)) * rng.choice([-1, 1], len(x))
        return np.stack([x, o, y, np.where(rng.random(len(x)) < slip, right + off, right)], axis=1)


class SmallCountdownTask(CountdownTask):
    """`countdown` with numbers up to 6 and targets below 25, for bases that a test can afford to pretrain."""

    name = "countdown-small"
    n_numbers = 25
    largest_start = 6
    split_sizes: ClassVar = {"test": 48, "validation": 48, "train": 96}


def _target(plays: Ints) -> Ints:
    """What each play ends with."""
    return np.where(plays[:, 0] == 2, plays[:, 11], plays[:, 7])
