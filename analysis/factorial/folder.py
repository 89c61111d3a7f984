"""The folder of a factorial: what was run, the curves of every cell as they come, then gaps, shares and pictures.

    ladder.json                  settings, versions, whether it is complete
    cells/<cell>--<method>.parquet  one row for each evaluation and seed
    gaps.parquet  shares.parquet  interactions.parquet  differences.parquet  clipped.parquet  summary.md  factorial.png

A cell is written whole and not run again, so that an interrupted factorial goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.provenance import machine_info
from ..errors import UsageError
from ..records.folders import write_durably
from .cells import CellRun, Cells

__all__ = ["FactorialFolder"]

_FORMAT = 2  # 1: without passes over the same rows


class FactorialFolder:
    """A folder for the factorial of some settings, new or begun before. Raises UsageError where it holds another."""

    def __init__(self, path: Path, settings: Cells) -> None:
        self.path = path
        self._about = {"format": _FORMAT, "settings": json.loads(json.dumps(asdict(settings)))}
        file = path / "ladder.json"
        if file.exists():
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UsageError(f"out: {file} is damaged ({error}); choose another folder") from error
            if {key: known.get(key) for key in self._about} != self._about:
                raise UsageError(f"out: {path} holds a factorial with other settings; choose another folder with --out")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"out: expected a new or empty folder, got {path}; choose another with --out")
        (path / "cells").mkdir(parents=True, exist_ok=True)
        self._note("unfinished")

    @staticmethod
    def default(settings: Cells) -> Path:
        """`runs/ladder-<policy>-<hash8>` below the current folder."""
        digest = hashlib.sha256(json.dumps([_FORMAT, asdict(settings)], sort_keys=True).encode()).hexdigest()
        return Path("runs") / f"ladder-{settings.policy}-{digest[:8]}"

    def _note(self, status: str) -> None:
        text = json.dumps(self._about | {"status": status} | machine_info(), indent=1)
        write_durably(self.path / "ladder.json", text.encode())

    def _file(self, cell: str, method: str) -> Path:
        name = re.sub(r"[^a-z0-9.-]+", "-", method.lower().replace(" ", ""))
        if ":" in method:  # two files may hold functions of one name
            name = f"{name[-40:]}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"
        return self.path / "cells" / f"{cell}--{name}.parquet"

    def has(self, cell: str, method: str) -> bool:
        """Whether the cell was run before."""
        return self._file(cell, method).exists()

    def save(self, run: CellRun) -> None:
        """Keep a cell that was run."""
        evaluations, seeds = run.updates.shape
        rows: dict[str, Any] = {
            "cell": run.cell,
            "method": run.method,
            "step": np.repeat(run.steps, seeds),
            "seed": np.tile(np.arange(seeds), evaluations),
            "updates": run.updates.ravel(),
        } | {name: values.ravel() for name, values in run.values.items()}
        write_durably(self._file(run.cell, run.method), pd.DataFrame(rows).to_parquet(index=False))

    def load(self, cell: str, method: str) -> CellRun:
        """A cell that was run before."""
        rows = pd.read_parquet(self._file(cell, method))
        seeds = int(rows["seed"].max()) + 1
        grid = {name: rows[name].to_numpy().reshape(-1, seeds) for name in rows.columns[3:]}
        values = {name: grid[name] for name in grid if name not in ("seed", "updates")}
        return CellRun(cell, method, rows["step"].to_numpy()[::seeds], grid["updates"], values)

    def finish(self, page: str, **tables: pd.DataFrame) -> None:
        """Write the tables and the page that shows them, and note that the factorial is complete."""
        for name, table in tables.items():
            write_durably(self.path / f"{name}.parquet", table.to_parquet(index=False))
        write_durably(self.path / "summary.md", page.encode())
        self._note("complete")
