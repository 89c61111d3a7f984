"""Rows for every table, with nulls, ragged lists and lists of equal length."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.records.schema import TABLES, Column

RUN_JSON = {
    "run_id": "psr-s0",
    "label": "PSR",
    "engine": "small",
    "recipe": {"steps": 4},
    "hash": "abc",
    "seed": 0,
    "temperature": 1.0,
}


def some_rows(table: str, count: int, seed: int, *, nulls: bool = True) -> dict[str, list[Any]]:
    """`count` random rows as Python values; every third value of a nullable column is None."""
    generator = np.random.default_rng([seed, *table.encode()])
    return {
        column.name: [
            None if nulls and column.null and (row + len(column.name)) % 3 == 0 else _value(column, generator)
            for row in range(count)
        ]
        for column in TABLES[table].columns
    }


def _value(column: Column, generator: np.random.Generator) -> Any:
    match column.kind:
        case "int8":
            return int(generator.integers(-1, 2))
        case "int32" | "int64":
            return int(generator.integers(0, 2**20))
        case "float32":
            return float(np.float32(generator.normal()))
        case "float64":
            return float(generator.normal())
        case "bool":
            return bool(generator.integers(2))
        case "str":
            return "".join(generator.choice(list("aβ→ \n"), size=generator.integers(0, 5)))
        case "ints":
            return generator.integers(0, 99, size=generator.integers(0, 4)).tolist()
        case "floats":
            return np.float32(generator.normal(size=generator.integers(0, 4))).tolist()
