"""The results of a factorial as one JSON file that can be committed: what pages, tables and the figure say.

    command, date, commit, versions, processor   how it was made
    settings, levels, factors                    what was run: seeds, sizes, methods; levels of Pass@1; each switch
    gaps         NSR − PSR in every cell: cell, metric, view, value, low, high, n
    shares       first in, last out and Shapley by factor, and everything on; metric, view
    differences  from one cell to another, all other factors off; metric, view
    interactions by pair, averaged over the settings of the other factors; metric, view (with --full)
    clipped      of the tokens with an advantage the fraction that the clip held; cell, method
    paths        entropy among correct responses where Pass@1 crosses each level, mean over seeds, with nothing and with
                 everything on
    tables       as they are printed

`view` is `matched` (at equal Pass@1) or `last` (after the last step). Intervals are 95% Student's t over seeds. Numbers
are rounded to six decimals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.provenance import measured_with
from ..evaluation import interval
from ..records.folders import write_durably
from .cells import CellRun, Cells
from .factors import Factor, cell_name
from .findings import Findings
from .method_gaps import LEVELS, at_levels, gaps

__all__ = ["write_results"]

_DECIMALS = 6


def write_results(
    path: Path,
    command: str,
    found: Findings,
    runs: Mapping[tuple[str, str], CellRun],
    factors: Sequence[Factor],
    settings: Cells,
) -> None:
    """Write the results file; every row of a list stands on a line of its own."""
    data = measured_with(command) | {
        "settings": asdict(settings),
        "levels": list(LEVELS),
        "factors": [asdict(factor) | {"label": found.labels[factor.name]} for factor in factors],
        "gaps": _gaps(gaps(runs.values())),
        "shares": _rows(found.shares),
        "differences": _rows(found.differences),
        "interactions": _rows(found.interactions),
        "clipped": found.clipped.to_dict("records"),
        "paths": _paths(runs, factors),
        "tables": [table.to_json() for table in found.tables],
    }
    write_durably(path, _text(data).encode())


def _rows(effects: pd.DataFrame) -> list[Any]:
    """The effects on the gap NSR − PSR."""
    return effects[effects["method"] == "NSR"].drop(columns="method").to_dict("records")


def _gaps(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for (cell, metric), of in table[table["method"] == "NSR"].groupby(["cell", "metric"], sort=False):
        for view in ("matched", "last"):
            known = of[view].dropna()
            row: dict[str, Any] = {"cell": cell, "metric": metric, "view": view, "n": len(known)}
            if len(known) > 1:
                mean = interval(known, over="seeds")
                row |= {"value": mean.estimate, "low": mean.low, "high": mean.high}
            rows.append(row)
    return rows


def _paths(runs: Mapping[tuple[str, str], CellRun], factors: Sequence[Factor]) -> list[dict[str, Any]]:
    rows = []
    for cell in ("none", cell_name(frozenset(factor.name for factor in factors))):
        for method in ("PSR", "NSR"):
            crossed = at_levels(runs[cell, method], LEVELS)["entropy_correct"]
            for level, values in zip(LEVELS, crossed, strict=True):
                known = values[np.isfinite(values)]
                value = float(known.mean()) if len(known) else None
                rows.append({"cell": cell, "method": method, "pass@1": level, "value": value, "n": len(known)})
    return rows


def _text(data: Mapping[str, Any]) -> str:
    entries = []
    for name, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)}" for row in value)
            text = f"[\n{rows}\n ]"
        else:
            text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
        entries.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _plain(value: Any) -> Any:
    """Plain data, rounded; null for what is missing, since JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return round(value, _DECIMALS) + 0.0 if math.isfinite(value) else None  # + 0.0: no negative zero
    return value
