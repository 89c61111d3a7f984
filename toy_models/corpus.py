"""The pretraining text of «path»: random paths that are right most of the time, with plausible errors.

A row is a random walk (2, 3 or 4 jumps, each uniform) from a uniform S, whose end is T, with two numbers between as the
forbidden ones; prompts of the splits and distances beyond the task's `corpus_distances` are left out. A walk lands on a
forbidden number only where it ignores them (probability 0.15), and each sum slips with probability 0.05: the jump
written before it is off by one or two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .path import COLON, END, MAX_JUMPS, MIN_JUMPS, PAD, PathTask

__all__ = ["corpus"]

SLIP_PROBABILITY = 0.05
IGNORE_PROBABILITY = 0.15

Ints = NDArray[np.int64]


class _Walks(NamedTuple):
    start: Ints  # (n, 1)
    jumps: Ints  # (n, 4), zero after the end
    forbidden: Ints  # (n, 2), ascending, counted from the start

    def puzzles(self) -> Ints:
        """(n, 4): start, target and the forbidden numbers."""
        target = self.start + self.jumps.sum(axis=1, keepdims=True)
        return np.concatenate([self.start, target, self.start + self.forbidden], axis=1)


def corpus(task: PathTask, n: int, rng: np.random.Generator) -> Ints:
    """`n` rows of token ids, (n, 5 + max_new_tokens): prompt, response, end token, padding on the right."""
    rows = np.empty((0, 5 + task.max_new_tokens), dtype=np.int64)
    while len(rows) < n:
        # Rows that meet a held-out prompt are dropped, so draw a few more.
        rows = np.concatenate([rows, _draw(task, int((n - len(rows)) * 1.1) + 64, rng)])
    return rows[:n]


def _draw(task: PathTask, n: int, rng: np.random.Generator) -> Ints:
    walks = _Walks(*(np.empty((n, width), dtype=np.int64) for width in (1, MAX_JUMPS, 2)))
    ignores = rng.random(n) < IGNORE_PROBABILITY
    todo = np.arange(n)
    while len(todo):
        new = _draw_walks(task, len(todo), rng)
        for column, values in zip(walks, new, strict=True):
            column[todo] = values
        distance = new.jumps.sum(axis=1)
        fits = (distance >= task.corpus_distances[0]) & (distance <= task.corpus_distances[1])
        todo = todo[~(fits & (ignores[todo] | ~_lands_on(new.jumps, new.forbidden)))]
    keep = ~_held_out(task, walks)
    return _encode(task, _Walks(*(column[keep] for column in walks)), rng)


def _draw_walks(task: PathTask, n: int, rng: np.random.Generator) -> _Walks:
    length = rng.integers(MIN_JUMPS, MAX_JUMPS + 1, (n, 1))
    jumps = rng.integers(1, task.largest_jump + 1, (n, MAX_JUMPS)) * (np.arange(MAX_JUMPS) < length)
    distance = jumps.sum(axis=1, keepdims=True)
    start = rng.integers(0, task.n_numbers - distance)
    # Walks too short for two numbers between their ends are drawn again; the bounds only keep the draw defined.
    first = rng.integers(1, np.maximum(distance, 3))
    second = rng.integers(1, np.maximum(distance - 1, 2))
    second += second >= first
    return _Walks(start, jumps, np.sort(np.concatenate([first, second], axis=1), axis=1))


def _lands_on(jumps: Ints, forbidden: Ints) -> NDArray[np.bool_]:
    """Whether a path lands on a forbidden number (which lie before the target, so ended paths do not matter)."""
    sums = jumps.cumsum(axis=1)
    return (sums[:, :, None] == forbidden[:, None, :]).any(axis=(1, 2))


def _held_out(task: PathTask, walks: _Walks) -> NDArray[np.bool_]:
    def code(puzzles: Ints) -> Ints:
        return puzzles @ task.n_numbers ** np.arange(4)

    reserved = np.array([puzzle for split in task.splits.values() for puzzle in split], dtype=np.int64)
    return np.isin(code(walks.puzzles()), code(reserved))


def _encode(task: PathTask, walks: _Walks, rng: np.random.Generator) -> Ints:
    jumps, n = walks.jumps, len(walks.jumps)
    number = np.array([task.ids[str(i)] for i in range(task.n_numbers)])
    jump = np.array([task.ids[PAD], *(task.ids[f"+{d}"] for d in range(1, task.largest_jump + 1))])
    rows = np.full((n, 5 + task.max_new_tokens), task.ids[PAD], dtype=np.int64)
    rows[:, :4] = number[walks.puzzles()]
    rows[:, 4] = task.ids[COLON]

    made = jumps > 0
    sums = walks.start + jumps.cumsum(axis=1)
    # A slipped sum is the number on the path; the jump written before it is off by one or two, and stays a jump.
    slip = rng.integers(1, 3, jumps.shape) * rng.choice([-1, 1], jumps.shape)
    slip = np.where((jumps + slip < 1) | (jumps + slip > task.largest_jump), -slip, slip)
    written = np.where(made & (rng.random(jumps.shape) < SLIP_PROBABILITY), jumps + slip, jumps)
    rows[:, 5:13:2] = np.where(made, jump[written], task.ids[PAD])
    rows[:, 6:13:2] = np.where(made, number[np.where(made, sums, 0)], task.ids[PAD])
    rows[np.arange(n), 5 + 2 * made.sum(axis=1)] = task.ids[END]
    return rows
