"""Coverage counted: every condition drawn so many times, each from a seed of its own."""

from __future__ import annotations

import multiprocessing
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..common.tables import Cell, Column, Table
from ..evaluation import interval
from ..evaluation.interval_kinds import Kind
from .condition import Condition
from .conditions import conditions

__all__ = ["measure", "table"]


def measure(
    kinds: Sequence[str],
    *,
    replicates: int,
    seed: int,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """One dictionary for each world and size.

    Keys: kind, world, size, claimed (whether 93 to 97% is aimed at there), draws, printed (draws with an interval),
    covered, below (the truth lies below the interval) and above, all counts.

    Args:
        kinds: Which kinds.
        replicates: Draws of each world; costly ones have a stated fraction of them.
        seed: Of all draws; a world's draws depend on nothing but this and its own description.
        workers: Processes; the numbers do not depend on it.
        progress: Receives (conditions done, of how many).
    """
    chosen = [place for place, condition in enumerate(conditions()) if set(condition.rows) & set(kinds)]
    jobs = [(place, replicates, seed) for place in chosen]
    counted: list[list[dict[str, Any]]] = []
    with ExitStack() as stack:
        results: Iterable[list[dict[str, Any]]]
        if workers == 1:
            results = map(_job, jobs)
        else:
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            results = stack.enter_context(pool).map(_job, jobs)
        for rows in results:
            counted.append(rows)
            progress(len(counted), len(jobs))
    found = [row for rows in counted for row in rows if row["kind"] in kinds]
    return sorted(found, key=lambda row: list(Kind).index(row["kind"]))


def _job(job: tuple[int, int, int]) -> list[dict[str, Any]]:
    """One condition, by its place among all: functions that draw do not travel between processes."""
    place, replicates, seed = job
    condition = list(conditions())[place]
    return _count(condition, max(1, round(replicates * condition.replicates)), seed)


def _count(condition: Condition, draws: int, seed: int) -> list[dict[str, Any]]:
    rows = [(kind, row) for kind, of_kind in condition.rows.items() for row in of_kind]
    key = zlib.crc32(f"{rows[0][0]} {rows[0][1]} {condition.size}".encode())
    rng = np.random.default_rng([seed, key])
    counts = np.zeros((len(rows), 4), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(draws):
            for count, (found, truth) in zip(counts, condition.draw(rng), strict=True):
                if np.isfinite(found.low):
                    count += (1, found.low <= truth <= found.high, truth < found.low, truth > found.high)
    names = ("printed", "covered", "below", "above")
    return [
        {
            "kind": str(kind),
            "world": row,
            "size": condition.size,
            "claimed": condition.claimed,
            "draws": draws,
            **dict(zip(names, map(int, count), strict=True)),
        }
        for (kind, row), count in zip(rows, counts, strict=True)
    ]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The counts as a table for a terminal."""
    lines: list[tuple[Cell | str, ...]] = []
    for row in rows:
        hits = np.arange(row["printed"]) < row["covered"]
        covered = Cell.of(interval(hits, method="wilson"), digits=3) if len(hits) else Cell(float("nan"))
        lines.append((row["kind"], row["world"], row["size"], covered, Cell(row["printed"] / row["draws"], digits=2)))
    columns = (
        Column("", "kind"),
        Column("world", "world"),
        Column("size", "size"),
        Column("covers", "covers"),
        Column("printed", "printed"),
    )
    note = (
        "Of nominal 95%, with Wilson's interval over the draws; printed: fraction of the draws that have an interval."
    )
    return Table("coverage of the intervals", columns, tuple(lines), note, "coverage")
