"""Reading an experiment: several runs of one recipe, their tables one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
import pyarrow as pa

from ..common.notebook_html import html_table
from ..errors import UsageError
from .folders import EXPERIMENT_FILE, RUN_FILE, read_experiment
from .frames import with_units
from .reader import FORMS, Run, check_table, columns_of, to_pandas
from .recorded import Where
from .reporting import Report, report_of
from .schema import TABLES
from .shared_storage import is_url, local_copy_to_read

__all__ = ["Experiment", "load_trace"]


def load_trace(path: str | Path, *, verify: bool = False) -> Run | Experiment:
    """The run or the experiment in a folder, as far as it is committed; it may still be running.

    Args:
        path: the folder of a run, or that of an experiment, which holds several; or its URL on shared storage, from
            which a copy is fetched into the cache folder.
        verify: whether to check the hash of every committed file, not only its presence and size.

    Raises:
        UsageError: the folder is missing, empty, damaged, of another schema version, or neither a run nor an
            experiment.

    Example:
        >>> load_trace("runs/mine").laws()  # doctest: +SKIP
    """
    folder = local_copy_to_read(str(path)) if is_url(path) else Path(path)
    if (folder / EXPERIMENT_FILE).exists():
        return Experiment(folder, verify=verify)
    if (folder / RUN_FILE).exists():
        return Run(folder, verify=verify)
    if not folder.is_dir():
        raise UsageError(f"path: expected the folder of a run or an experiment, got {folder}, which does not exist")
    what = "is empty" if not any(folder.iterdir()) else f"holds neither {EXPERIMENT_FILE} nor {RUN_FILE}"
    raise UsageError(f"path: expected the folder of a run or an experiment, got {folder}, which {what}")


class Experiment:
    """Several runs of one recipe, in the recipe's order; runs that have not started yet are left out.

    `experiment["psr-seed0"]` is a run, and so is `experiment["PSR"]` where that method has one seed.

    Attributes:
        folder: the experiment folder.
        info: the fields of experiment.json.
        runs: run_id -> `Run`, in order.

    Args:
        folder: an experiment folder.
        verify: whether to check the hash of every committed file.

    Raises:
        UsageError: the folder does not hold an experiment, or a run in it is damaged.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.info: dict[str, Any] = read_experiment(self.folder)
        listed = [run["run_id"] for run in self.info["runs"]]
        started = [run_id for run_id in listed if (self.folder / run_id / RUN_FILE).exists()]
        self.runs: dict[str, Run] = _Runs({run_id: Run(self.folder / run_id, verify=verify) for run_id in started})

    def __repr__(self) -> str:
        return f"Experiment({self.name!r}, status={self.status!r}, runs={list(self.runs)})"

    def _repr_html_(self) -> str:
        """For notebooks: the runs, and how far each has come."""
        rows = [
            (run_id, run.label, "–" if run.seed is None else run.seed, run.status, run.committed_step)
            for run_id, run in self.runs.items()
        ]
        about = f"{self.status}, in {self.folder} · experiment[run or method], table(name), report()"
        return html_table(f"Experiment {self.name}", about, rows, columns=("run", "method", "seed", "status", "steps"))

    def __getitem__(self, name: str) -> Run:
        """A run by its id, or by its method's label where the experiment has one run of it.

        Raises:
            KeyError: no run has that name, or several seeds have that label; the message lists the runs.
        """
        return self.runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def report(self, figures: str | Path | None = None, *, each_run: bool = False) -> Report:
        """Summarise the experiment, draw its figures, write `summary.md`, `figures/` and `report.html` into its folder.

        Args:
            figures: a folder for the figures instead of the experiment's own.
            each_run: whether to draw the figures of each run too, into its folder.

        Returns:
            The tables, as an `analysis.report.Summary`; `figures` of it are the files.

        Raises:
            UsageError: nothing to report is recorded yet.
        """
        return report_of(self, figures, each_run=each_run)

    @property
    def name(self) -> str:
        return self.info["name"]

    @property
    def status(self) -> str:
        return self.info["status"]

    @property
    def recipe(self) -> dict[str, Any]:
        return self.info["recipe"]

    @property
    def labels(self) -> dict[str, str]:
        """run_id -> label, in order."""
        return {run_id: run.label for run_id, run in self.runs.items()}

    @overload
    def table(
        self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Where = None, as_: str = "pandas") -> Any:
        """`Run.table` of all runs, one after another, with the columns run_id, label and seed in front.

        Args:
            name, columns, where: as in `Run.table`.
            as_: "pandas" or "arrow".

        Raises:
            UsageError: as in `Run.table`, and where no run has started yet.
        """
        if as_ not in FORMS[:2]:
            raise UsageError(
                f"as_: expected pandas or arrow for an experiment, got {as_!r}; read single runs with duckdb"
            )
        check_table(name)
        selected = columns_of(name, as_) if columns is None else columns
        parts = [_named(run, run.table(name, selected, where, as_="arrow")) for run in self.runs.values()]
        if not parts:
            raise UsageError(f"path: expected an experiment with runs, got {self.folder}, where none has started yet")
        rows = pa.concat_tables(parts)
        return rows if as_ == "arrow" else with_units(to_pandas(rows), TABLES[name].columns)


class _Runs(dict[str, Run]):
    """run_id -> run, in order; a label finds its run where it has one seed."""

    def __missing__(self, name: str) -> Run:
        labelled = [run for run in self.values() if run.label == name]
        if len(labelled) == 1:
            return labelled[0]
        if labelled:
            ids = ", ".join(run.run_id for run in labelled)
            raise KeyError(f"{name!r} has {len(labelled)} seeds; choose one of {ids}")
        there = ", ".join(f"{run_id} ({run.label})" for run_id, run in self.items())
        raise KeyError(f"expected the id or the label of a run, got {name!r}; {there or 'no run has started yet'}")


def _named(run: Run, rows: pa.Table) -> pa.Table:
    columns = {"run_id": pa.scalar(run.run_id), "label": pa.scalar(run.label), "seed": pa.scalar(run.seed, pa.int64())}
    for at, (name, value) in enumerate(columns.items()):
        rows = rows.add_column(at, name, pa.repeat(value, rows.num_rows))
    return rows
