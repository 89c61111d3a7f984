"""Reading a run: committed rows as pandas, Arrow or DuckDB, and the columns that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

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
    Commit,
    PartFile,
    check_part,
    read_commits,
    read_run_json,
)
from .frames import TOKEN_TEXT, with_units
from .recorded import Where
from .reporting import Diagnosed, Report, diagnosis_of, report_of
from .schema import TABLES, arrow_schema
from .token_text import WordOf, with_token_text, word_of

if TYPE_CHECKING:
    from ..objectives import Objective
    from .rollout_views import RolloutView

__all__ = ["FORMS", "Run", "check_table", "columns_of", "digest", "to_pandas"]

FORMS = ("pandas", "arrow", "duckdb")


class Run:
    """One run: `table` for what was recorded; `laws`, `flows` and the summaries for what follows from it.

    Every data frame has the units of its columns in `attrs["units"]`; `docs/records.md` describes all columns.

    Attributes:
        folder: the run folder.
        info: the fields of run.json (`schema.RUN_FIELDS`).

    Args:
        folder: a run folder.
        verify: whether to check the hash of every committed file, not only its presence and size.

    Raises:
        UsageError: the folder does not hold a run, or is damaged.
    """

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
        about = "· table(name), rollout(i, step), laws(), flows(), report(), diagnose()"
        return html_table(f"Run {self.run_id}", about, known)

    @property
    def run_id(self) -> str:
        return self.info["run_id"]

    @property
    def label(self) -> str:
        return self.info["label"]

    @property
    def status(self) -> str:
        """running, complete, interrupted or diverged; a run that was killed still says running."""
        return self.info["status"]

    @property
    def seed(self) -> int | None:
        return self.info["seed"]

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The resolved recipe, every field of it; None for a run without one."""
        return self.info["recipe"]

    @property
    def committed_step(self) -> int | None:
        """Number of committed steps; None where nothing is committed."""
        return self._commits[-1].step if self._commits else None

    def rows(self, table: str) -> int:
        """Number of committed rows of `table`, without opening it."""
        check_table(table)
        return sum(part.rows for part in self._parts(table))

    def _parts(self, table: str) -> list[PartFile]:
        return [part for commit in self._commits for part in commit.parts if part.table == table]

    @overload
    def table(
        self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Where = None, as_: str = "pandas") -> Any:
        """The committed rows of a table, in the order in which they were written; those of several ranks by step.

        Args:
            name: one of the tables of `docs/records.md`.
            columns: which columns, in this order; None for all. Data frames of tables with a `token` have its text
                besides, `token_text`.
            where: filters such as `[("update", ">", 3), ("weight", "<", 0)]` (a list of such lists means "or"), or a
                `pyarrow.dataset` expression.
            as_: "pandas" (integers and booleans have a nullable dtype where values are missing, else their numpy dtype;
                lists are arrays), "arrow" (a `pyarrow.Table`) or "duckdb" (a lazy relation, for tables larger than
                memory).

        Returns:
            The rows; of a table without rows an empty frame with the same columns and dtypes.

        Raises:
            UsageError: an unknown table, column or form, a filter that does not fit, or a damaged file.
        """
        check_table(name)
        if as_ not in FORMS:
            raise UsageError(f"as_: expected one of {', '.join(FORMS)}, got {as_!r}")
        known = columns_of(name, "pandas")
        for column in columns or ():
            if column not in known:
                raise UsageError(f"columns: {name} has no column {column!r}; {nearest(column, known)}")
        dataset = self._dataset(name)
        key = self._sort_key(name)
        if where is not None:
            dataset = dataset.filter(_expression(name, where))
        selected = columns_of(name, as_) if columns is None else list(columns)
        if as_ == "duckdb":
            if TOKEN_TEXT.name in selected:
                raise UsageError("columns: expected stored columns for DuckDB, got token_text; choose pandas or arrow")
            return _duckdb(dataset, selected, key)
        rows = self._read(name, dataset, selected, key)
        return rows if as_ == "arrow" else with_units(to_pandas(rows), TABLES[name].columns)

    def _sort_key(self, name: str) -> tuple[str, ...]:
        """The columns by which the rows of a table are in order; () where one rank wrote them, in order.

        Prompts have none: they come in the order in which they were first seen, by rank.
        """
        several = any(not part.path.endswith(".r0.parquet") for part in self._parts(name))
        return TABLES[name].key if several and name != "prompts" else ()

    def _read(self, name: str, dataset: ds.Dataset, selected: list[str], key: tuple[str, ...]) -> pa.Table:
        stored = [column for column in selected if column != TOKEN_TEXT.name]
        text = len(stored) < len(selected)
        needed = dict.fromkeys([*stored, *(["token"] if text else []), *key])
        try:
            rows = dataset.to_table(columns=list(needed))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise UsageError(
                f"{self.folder / name}: expected Parquet files of this schema, got {error}; "
                "load_trace(path, verify=True) finds the damaged one"
            ) from error
        if key:
            rows = _in_order(rows, key)
        rows = with_token_text(rows, self._word_of) if text else rows
        return rows.select(selected) if text or key else rows

    @cached_property
    def _word_of(self) -> WordOf:
        return word_of(self)

    def _dataset(self, name: str) -> ds.Dataset:
        files = [str(self.folder / part.path) for part in self._parts(name)]
        schema = arrow_schema(name)
        return ds.dataset(files, schema=schema, format="parquet") if files else ds.dataset(schema.empty_table())

    def rollout(
        self, rollout: int, step: int | None = None, *, update: int | None = None, by: str | None = None
    ) -> RolloutView:
        """One sampled response with its recorded tokens, to look at in a notebook.

        Args:
            rollout: its index in the batch, as in the table `rollouts`.
            step: the rollout batch; None for the first that has this rollout.
            update: the optimiser update whose view of the tokens is wanted; None for the first that recorded them.
            by: what shades the tokens: weight, prob, entropy, advantage or squeeze; None for the weight where it was
                measured, else the probability.

        Returns:
            The rollout; `rollout[position]` is one token with its distribution.

        Raises:
            UsageError: no such rollout, update or quantity was recorded.

        Example:
            >>> run.rollout(3, step=0)[0]  # doctest: +SKIP
        """
        from .rollout_views import read_rollout

        return read_rollout(self, rollout, step, update, by)

    def laws(self, objective: str | Objective | None = None, *, where: Where = None) -> pd.DataFrame:
        """First-order effect of each recorded token on its own context, with the token's own columns.

        Args:
            objective: a name such as "psr-ratio" or an `Objective`: the weights that it would have given to the
                recorded rewards. None for the measured weights.
            where: rows of `tokens`, as in `table`.

        Returns:
            One row per row of `tokens`: its columns that hold one value, and dlog_prob, dprob, dentropy with its parts
            (nats per unit logit step), squeeze_boundary, grad_l1, grad_l2. See `effects.token_laws`.

        Raises:
            UsageError: no weight was measured and no objective is given, or the rewards that it needs are missing.
        """
        from .effects import token_laws

        return token_laws(self, objective, where=where)

    def flows(self, *, where: Where = None) -> pd.DataFrame:
        """Contexts through updates: realised changes beside those that the law and the JVP predict.

        Args:
            where: rows of `flows`, as in `table`.

        Returns:
            One row per row of `flows`, with its context; see `effects.context_flows`.
        """
        from .effects import context_flows

        return context_flows(self, where=where)

    def prediction_summary(self, *, ranges: int = 1) -> pd.DataFrame:
        """How well the two predictions met the realised changes.

        Args:
            ranges: into how many equal ranges the updates are split.

        Returns:
            One row for each range, kind of context, sign, kind of weight and quantity; see
            `effects.prediction_summary`.

        Raises:
            UsageError: fewer than one range.
        """
        from .effects import prediction_summary

        return prediction_summary(self, ranges=ranges)

    def shares_summary(self, *, ranges: int = 1) -> pd.DataFrame:
        """The first order beside realised changes, by the gradients that it came from.

        Args:
            ranges: into how many equal ranges the updates are split.

        Returns:
            One row for each range, kind of context, sign, quantity, view and part; see `step_shares.shares_summary`.

        Raises:
            UsageError: fewer than one range.
        """
        from .step_shares import shares_summary

        return shares_summary(self, ranges=ranges)

    def report(self, figures: str | Path | None = None) -> Report:
        """Summarise the run, draw its figures, and write `summary.md`, `figures/` and `report.html` into its folder.

        Args:
            figures: a folder for the figures instead of the run's own.

        Returns:
            The tables, as an `analysis.report.Summary`; `figures` of it are the files.

        Raises:
            UsageError: nothing to report is recorded yet.
        """
        return report_of(self, figures)

    def diagnose(self, objective: str | Objective | None = None) -> Diagnosed:
        """What the records say is wrong with the run, and what carried its updates.

        Args:
            objective: whose weights are assumed where none were measured.

        Returns:
            The findings, as an `analysis.diagnosis.Diagnosis`: `run.diagnose()["dead-groups"].sentence`.

        Raises:
            UsageError: nothing is committed yet, or the records lack what the objective needs.
        """
        return diagnosis_of(self, objective)

    def batches(self, name: str) -> Iterator[pa.RecordBatch]:
        """The stored rows of a table in order, a row group at a time; those of several ranks a commit at a time."""
        check_table(name)
        key = self._sort_key(name)
        for commit in self._commits:
            files = [self.folder / part.path for part in commit.parts if part.table == name]
            if key and len(files) > 1:
                yield from _in_order(pa.concat_tables([pq.read_table(file) for file in files]), key).to_batches()
            else:
                for file in files:
                    yield from pq.ParquetFile(file).iter_batches()


def digest(run: Run | str | Path) -> str:
    """sha256 over the values of all committed tables but timings.

    It does not depend on chunks, files or compression: two runs with equal digests hold the same rows in the same
    order, floats to the last bit.

    Args:
        run: a run or its folder.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: the folder does not hold a run.
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


def columns_of(name: str, form: str) -> list[str]:
    """The columns of a table that are given where none are chosen: data frames have the text of tokens besides."""
    stored = list(TABLES[name].names)
    return [*stored, TOKEN_TEXT.name] if form == "pandas" and "token" in stored else stored


def check_table(name: str) -> None:
    if name not in TABLES:
        raise UsageError(f"table: unknown name {name!r}; {nearest(name, TABLES)}")


def _expression(name: str, where: Where) -> pc.Expression:
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


def _in_order(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in key])


def _duckdb(dataset: ds.Dataset, columns: Sequence[str], key: Sequence[str]) -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise UsageError(
            "as_: expected the duckdb package for 'duckdb', got none; pip install duckdb, or choose pandas or arrow"
        ) from error
    rows = duckdb.connect().from_arrow(dataset)
    rows = rows.order(", ".join(f'"{name}"' for name in key)) if key else rows
    return rows.project(", ".join(f'"{name}"' for name in columns))
