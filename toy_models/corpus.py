"""The pretraining text of «path»: random paths that are right most of the time, with plausible errors.

A row is a prompt outside every split and a path from S to T: the number of jumps is uniform among those that can cover
T − S, the path uniform given it. A path lands on a forbidden number only where it ignores them (probability 0.15), and
each sum slips by one or two with probability 0.05: the walk goes on from the sum as written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .path import COLON, END, MAX_JUMPS, PAD, PathTask, jump_sequences

__all__ = ["corpus"]

SLIP_PROBABILITY = 0.05
IGNORE_PROBABILITY = 0.15

Ints = NDArray[np.int64]


def corpus(task: PathTask, n: int, rng: np.random.Generator) -> Ints:
    """`n` rows of token ids, (n, 5 + max_new_tokens): prompt, response, end token, padding on the right."""
    rows = np.empty((0, 5 + task.max_new_tokens), dtype=np.int64)
    while len(rows) < n:
        # Rows that meet a held-out prompt or find no allowed path are dropped, so draw a few more.
        rows = np.concatenate([rows, _draw(task, int((n - len(rows)) * 1.1) + 64, rng)])
    return rows[:n]


def _draw(task: PathTask, n: int, rng: np.random.Generator) -> Ints:
    smallest, largest = task.distances
    distance = rng.integers(smallest, largest + 1, n)
    start = rng.integers(0, task.n_numbers - distance)
    first = rng.integers(1, distance)
    second = rng.integers(1, distance - 1)
    second += second >= first
    forbidden = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)  # relative to the start

    ignores = rng.random(n) < IGNORE_PROBABILITY
    jumps = _draw_jumps(task, distance, rng)
    for _ in range(30):
        bad = ~ignores & _lands_on(jumps, forbidden)
        if not bad.any():
            break
        jumps[bad] = _draw_jumps(task, distance[bad], rng)
    keep = ~_held_out(task, start, distance, forbidden) & (ignores | ~_lands_on(jumps, forbidden))
    return _encode(task, start[keep], distance[keep], forbidden[keep], jumps[keep], rng)


def _draw_jumps(task: PathTask, distance: Ints, rng: np.random.Generator) -> Ints:
    """(n, 4) jumps, zero where the path has ended."""
    jumps = np.zeros((len(distance), MAX_JUMPS), dtype=np.int64)
    for d in np.unique(distance):
        rows = np.flatnonzero(distance == d)
        sequences = jump_sequences(int(d), task.largest_jump)
        lengths = np.array([len(seq) for seq in sequences])
        table = np.array([seq + (0,) * (MAX_JUMPS - len(seq)) for seq in sequences])
        present, counts = np.unique(lengths, return_counts=True)
        weight = 1.0 / (counts[np.searchsorted(present, lengths)] * len(present))
        jumps[rows] = table[rng.choice(len(sequences), len(rows), p=weight)]
    return jumps


def _lands_on(jumps: Ints, forbidden: Ints) -> NDArray[np.bool_]:
    """Whether a path lands on a forbidden number (which lie before the target, so ended paths do not matter)."""
    sums = jumps.cumsum(axis=1)
    return (sums[:, :, None] == forbidden[:, None, :]).any(axis=(1, 2))


def _held_out(task: PathTask, start: Ints, distance: Ints, forbidden: Ints) -> NDArray[np.bool_]:
    def code(puzzles: Ints) -> Ints:
        return puzzles @ task.n_numbers ** np.arange(4)

    reserved = np.array([puzzle for split in task.splits.values() for puzzle in split], dtype=np.int64)
    drawn = np.column_stack([start, start + distance, start[:, None] + forbidden])
    return np.isin(code(drawn), code(reserved))


def _encode(
    task: PathTask, start: Ints, distance: Ints, forbidden: Ints, jumps: Ints, rng: np.random.Generator
) -> Ints:
    n = len(start)
    number = np.array([task.ids[str(i)] for i in range(task.n_numbers)])
    jump = np.array([task.ids[PAD], *(task.ids[f"+{d}"] for d in range(1, task.largest_jump + 1))])
    rows = np.full((n, 5 + task.max_new_tokens), task.ids[PAD], dtype=np.int64)
    rows[:, 0], rows[:, 1] = number[start], number[start + distance]
    rows[:, 2:4] = number[start[:, None] + forbidden]
    rows[:, 4] = task.ids[COLON]

    made = jumps > 0
    sums = start[:, None] + jumps.cumsum(axis=1)
    # A slipped sum is the number on the path; the jump written before it is off by one or two, and stays a jump.
    slip = rng.integers(1, 3, jumps.shape) * rng.choice([-1, 1], jumps.shape)
    slip = np.where((jumps + slip < 1) | (jumps + slip > task.largest_jump), -slip, slip)
    written = np.where(made & (rng.random(jumps.shape) < SLIP_PROBABILITY), jumps + slip, jumps)
    rows[:, 5:13:2] = np.where(made, jump[written], task.ids[PAD])
    rows[:, 6:13:2] = np.where(made, number[np.where(made, sums, 0)], task.ids[PAD])
    rows[np.arange(n), 5 + 2 * made.sum(axis=1)] = task.ids[END]
    return rows
