"""Reading runs and experiments: committed rows as pandas, Arrow or DuckDB, and the columns that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from toy_models.messages import nearest

from ..common.notebook_html import html_table
from ..errors import UsageError
from .encoding import ContentHash
from .folders import (
    EXPERIMENT_FILE,
    RUN_FILE,
    Commit,
    PartFile,
    check_part,
    read_commits,
    read_experiment,
    read_run_json,
)
from .frames import TOKEN_TEXT, with_units
from .reporting import Report, report_of
from .schema import TABLES, arrow_schema
from .token_text import WordOf, with_token_text, word_of

__all__ = ["Experiment", "Run", "digest", "load_trace"]

_FORMS = ("pandas", "arrow", "duckdb")


def load_trace(path: str | Path, *, verify: bool = False) -> Run | Experiment:
    """The run or the experiment in a folder, as far as it is committed; it may still be running.

    With `verify` the hash of every committed file is checked (otherwise its presence and size). Raises UsageError for
    a folder that is empty, missing, neither of the two, damaged, or of another schema version.
    """
    folder = Path(path)
    if (folder / EXPERIMENT_FILE).exists():
        return Experiment(folder, verify=verify)
    if (folder / RUN_FILE).exists():
        return Run(folder, verify=verify)
    if not folder.is_dir():
        raise UsageError(f"path: expected the folder of a run or an experiment, but there is no folder {folder}")
    what = "is empty" if not any(folder.iterdir()) else f"holds neither {EXPERIMENT_FILE} nor {RUN_FILE}"
    raise UsageError(f"path: expected the folder of a run or an experiment, but {folder} {what}")


class Run:
    """One run: `table` for what was recorded; `laws`, `flows` and the summaries for what follows from it."""

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.info: dict[str, Any] = read_run_json(self.folder)
        self._commits: list[Commit] = read_commits(self.folder)
        for commit in self._commits:
            for part in commit.parts:
                check_part(self.folder, part, verify=verify)

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, label={self.label!r}, status={self.status!r}, steps={self.committed_step})"

    def _repr_html_(self) -> str:
        """For notebooks: what was recorded, and how much of it."""
        facts = [
            ("label", self.label),
            ("status", self.status),
            ("steps", self.committed_step),
            ("seed", self.seed),
            ("recorded by", self.info["engine"]),
            ("folder", self.folder),
            *((f"rows of {name}", f"{count:,}") for name in TABLES if (count := self.rows(name))),
        ]
        known = [(name, value) for name, value in facts if value is not None]
        return html_table(f"Run {self.run_id}", "· table(name), laws(), flows(), report()", known)

    @property
    def run_id(self) -> str:
        return self.info["run_id"]

    @property
    def label(self) -> str:
        return self.info["label"]

    @property
    def status(self) -> str:
        """running, complete, interrupted or diverged; a killed run still says running."""
        return self.info["status"]

    @property
    def seed(self) -> int | None:
        return self.info["seed"]

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The resolved recipe, every field of it."""
        return self.info["recipe"]

    @property
    def committed_step(self) -> int | None:
        """How many steps are committed; None where nothing is."""
        return self._commits[-1].step if self._commits else None

    def rows(self, table: str) -> int:
        """Committed rows of `table`, without opening it."""
        _check_table(table)
        return sum(part.rows for part in self._parts(table))

    def _parts(self, table: str) -> list[PartFile]:
        return [part for commit in self._commits for part in commit.parts if part.table == table]

    @overload
    def table(
        self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Any = None, as_: str = "pandas") -> Any:
        """The committed rows of a table in the order in which they were written.

        `columns` selects and orders columns; `where` is a `pyarrow.dataset` expression or a list of filters such as
        `[("update", ">", 3), ("weight", "<", 0)]` (a list of such lists means "or"). `as_`: "pandas" (a column of
        integers or booleans has a pandas nullable dtype where values are missing, else its numpy dtype; lists are
        arrays), "arrow" (a `pyarrow.Table`) or "duckdb" (a lazy relation, for tables larger than memory). A table
        without rows gives an empty frame of the same columns and dtypes.
        """
        _check_table(name)
        if as_ not in _FORMS:
            raise UsageError(f"as_: expected one of {', '.join(_FORMS)}, got {as_!r}")
        known = _columns(name, "pandas")
        for column in columns or ():
            if column not in known:
                raise UsageError(f"columns: {name} has no column {column!r}; {nearest(column, known)}")
        dataset = self._dataset(name)
        if where is not None:
            dataset = dataset.filter(_expression(name, where))
        selected = _columns(name, as_) if columns is None else list(columns)
        if as_ == "duckdb":
            if TOKEN_TEXT.name in selected:
                raise UsageError("columns: expected stored columns for DuckDB, got token_text; choose pandas or arrow")
            return _duckdb(dataset, selected)
        rows = self._read(name, dataset, selected)
        return rows if as_ == "arrow" else with_units(to_pandas(rows), TABLES[name].columns)

    def _read(self, name: str, dataset: ds.Dataset, selected: list[str]) -> pa.Table:
        stored = [column for column in selected if column != TOKEN_TEXT.name]
        text = len(stored) < len(selected)
        try:
            rows = dataset.to_table(columns=[*stored, "token"] if text and "token" not in stored else stored)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise UsageError(f"{self.folder / name}: cannot be read ({error}); load it with verify=True") from error
        return with_token_text(rows, self._word_of).select(selected) if text else rows

    @cached_property
    def _word_of(self) -> WordOf:
        return word_of(self)

    def _dataset(self, name: str) -> ds.Dataset:
        files = [str(self.folder / part.path) for part in self._parts(name)]
        schema = arrow_schema(name)
        return ds.dataset(files, schema=schema, format="parquet") if files else ds.dataset(schema.empty_table())

    def laws(self, objective: Any = None, *, where: Any = None) -> pd.DataFrame:
        """First-order effect of each recorded token on its own context; see `derived.token_laws`."""
        from .effects import token_laws

        return token_laws(self, objective, where=where)

    def flows(self, *, where: Any = None) -> pd.DataFrame:
        """Contexts through updates: realised changes, the law's and the JVP's; see `derived.context_flows`."""
        from .effects import context_flows

        return context_flows(self, where=where)

    def prediction_summary(self, *, ranges: int = 1) -> pd.DataFrame:
        """How well the two predictions met the realised changes; see `derived.prediction_summary`."""
        from .effects import prediction_summary

        return prediction_summary(self, ranges=ranges)

    def shares_summary(self, *, ranges: int = 1) -> pd.DataFrame:
        """The first order beside realised changes, by whose gradients it came from; see `shares.shares_summary`."""
        from .step_shares import shares_summary

        return shares_summary(self, ranges=ranges)

    def report(self, figures: str | Path | None = None) -> Report:
        """Summarise the run, draw its figures and write both into its folder as `summary.md` and `figures/`.

        Args:
            figures: a folder for the figures instead of the run's own.

        Returns:
            The tables, as an `analysis.report.Summary`; `figures` of it are the files.

        Raises:
            UsageError: nothing to report is recorded yet.
        """
        return report_of(self, figures)

    def batches(self, name: str) -> Iterator[pa.RecordBatch]:
        """The rows of a table in order, a file's row group at a time."""
        _check_table(name)
        for part in self._parts(name):
            yield from pq.ParquetFile(self.folder / part.path).iter_batches()


class Experiment:
    """Several runs of one recipe, in the recipe's order; runs that have not started yet are left out."""

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
        """Summarise the experiment, draw its figures and write both into its folder as `summary.md` and `figures/`.

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
        self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Any = None, as_: str = "pandas") -> Any:
        """`Run.table` of every run below one another, with the columns run_id, label and seed in front."""
        if as_ not in _FORMS[:2]:
            raise UsageError(f"as_: expected pandas or arrow for an experiment, got {as_!r}; DuckDB reads single runs")
        _check_table(name)
        selected = _columns(name, as_) if columns is None else columns
        parts = [_named(run, run.table(name, selected, where, as_="arrow")) for run in self.runs.values()]
        if not parts:
            raise UsageError(f"path: no run of the experiment in {self.folder} has started yet")
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


def digest(run: Run | str | Path) -> str:
    """sha256 over the logical content of all committed tables but timings.

    Independent of chunks, file bytes and compression: two runs with equal digests hold the same rows in the same
    order, floats to the last bit.
    """
    run = run if isinstance(run, Run) else Run(run)
    whole = hashlib.sha256()
    for name in TABLES:
        if name != "timings":
            content = ContentHash(name)
            content.update(run.batches(name))
            whole.update(f"{name} {content.hexdigest()}\n".encode())
    return whole.hexdigest()


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """Arrow to pandas without turning integers or booleans with gaps into floats or objects."""
    nullable = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int8(): pd.Int8Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    frame = rows.to_pandas()
    for name in rows.column_names:
        column = rows.column(name)
        if column.null_count and column.type in nullable:
            frame[name] = column.to_pandas(types_mapper=nullable.get)
    return frame


def _columns(name: str, form: str) -> list[str]:
    """The columns of a table that are given where none are chosen: data frames have the text of tokens besides."""
    stored = list(TABLES[name].names)
    return [*stored, TOKEN_TEXT.name] if form == "pandas" and "token" in stored else stored


def _check_table(name: str) -> None:
    if name not in TABLES:
        raise UsageError(f"table: unknown name {name!r}; {nearest(name, TABLES)}")


def _expression(name: str, where: Any) -> pc.Expression:
    if isinstance(where, str):
        raise UsageError(
            f"where: expected filters such as [('update', '==', 0)] or a pyarrow expression, got the text {where!r}; "
            f"write it as filters, or select rows afterwards with .query({where!r})"
        )
    try:
        expression = where if isinstance(where, pc.Expression) else pq.filters_to_expression(where)
        ds.dataset(arrow_schema(name).empty_table()).to_table(filter=expression)
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"where: expected a pyarrow expression or filters such as [('update', '>', 3)] on columns of {name}, "
            f"got {where!r} ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    return expression


def _duckdb(dataset: ds.Dataset, columns: Sequence[str]) -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise UsageError("as_: 'duckdb' needs the duckdb package; pip install 'rlvr-dynamics[duckdb]'") from error
    return duckdb.connect().from_arrow(dataset).project(", ".join(f'"{name}"' for name in columns))
