"""Annotations: what a trace computed of each rollout, in a file beside the one that the rollouts came from.

One row for each rollout that was traced, in the order of the source, as JSON Lines or Parquet. The key is `file`, `row`
(the line of JSON Lines or CSV, the row of any other format, from 1 on; of a table in memory from 0 on) and `response`
(from 1 on, where a row has several); `id` is what the source calls the row. `ANNOTATION_COLUMNS` describes the columns.
Lists have one entry for each token that the policy sampled; `position` says which token of the response it is. Laws are
for a weight of 1 and a unit logit step (`analysis.laws`): times w, they are those of any objective.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import UsageError
from .reading import RolloutFile
from .source_files import ANNOTATIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from ..records import Run

__all__ = ["ANNOTATION_COLUMNS", "KINDS", "annotations_path", "check_free", "write_annotations"]

KINDS = ("jsonl", "parquet")
_AT_ONCE = 1024  # rollouts that are in memory together

# column -> kind (str, int, float, bool, or a list of one of them), whether it is a list, and what it holds
ANNOTATION_COLUMNS: dict[str, tuple[str, bool, str]] = {
    "file": ("str", False, "name of the file in its folder; empty for a table in memory"),
    "row": ("int", False, "its line or row"),
    "response": ("int", False, "which response of the row, from 1 on; null where a row has one"),
    "id": ("str", False, "what the file calls the row, as text; null where it has no such column"),
    "rollout": ("int", False, "`rollout` in the tables of the trace"),
    "step": ("int", False, "`step` in the tables of the trace"),
    "group": ("int", False, "`group` in the tables of the trace"),
    "trace": ("str", False, "beginning of the hash of the trace, `hash` of run.json"),
    "reward": ("float", False, "as it was traced: after a threshold, or the verifier's"),
    "tokens": ("int", False, "tokens that the policy sampled"),
    "log_prob_sum": ("float", False, "Σ log π_y, in nats"),
    "log_prob_mean": ("float", False, "mean of log π_y, in nats"),
    "entropy_mean": ("float", False, "mean of H, in nats"),
    "below_boundary_fraction": ("float", False, "fraction of tokens with π_y below c"),
    "entropy_raised_fraction": ("float", False, "fraction of tokens whose reinforcement raises H"),
    "position": ("int", True, "index in the response"),
    "token": ("int", True, "token id y"),
    "log_prob": ("float", True, "log π_y, in nats"),
    "entropy": ("float", True, "H, in nats"),
    "token_rank": ("int", True, "number of tokens more probable than y"),
    "squeeze_boundary": ("float", True, "c − π_y: alternatives with more mass than this move against y"),
    "below_boundary": ("bool", True, "whether π_y is below c, so that a negative weight lifts the head alone"),
    "dlog_prob": ("float", True, "change of log π_y for a weight of 1, in nats per unit logit step"),
    "dentropy": ("float", True, "change of H for a weight of 1, in nats per unit logit step"),
}


def annotations_path(source: Path, kind: str, share: str | None = None) -> Path:
    """Where the annotations of a file or folder go: beside it, under its name; a trace of one share names that too.

    >>> annotations_path(Path("data/rollouts.jsonl.gz"), "jsonl").name
    'rollouts.jsonl.gz.annotations.jsonl'
    >>> annotations_path(Path("rollouts.jsonl"), "parquet", share="3/16").name
    'rollouts.jsonl.annotations-3-of-16.parquet'
    """
    if kind not in KINDS:
        raise UsageError(f"annotate: expected one of {', '.join(KINDS)}, got {kind!r}")
    source = source.resolve()
    part = "" if share is None else f"-{share.replace('/', '-of-')}"
    return source.with_name(f"{source.name}{ANNOTATIONS}{part}.{kind}")


def check_free(path: Path, *, overwrite: bool) -> None:
    """UsageError where the file is there already and is not to be written again."""
    if path.exists() and not overwrite:
        raise UsageError(
            f"annotate: {path} exists already; write it again with --resume or --force (overwrite), or move it away"
        )


def write_annotations(
    run: Run, rollouts: RolloutFile, path: str | Path | None = None, *, kind: str = "jsonl", overwrite: bool = False
) -> Path:
    """Write what a trace computed of each rollout beside the file of the rollouts.

    Args:
        run: The complete trace.
        rollouts: What was traced, as `read_rollouts` gives it.
        path: Where to write, by default beside the source (`annotations_path`).
        kind: "jsonl" or "parquet".
        overwrite: Whether a file that is there is replaced.

    Returns:
        The file, which appears under its name once it is complete.

    Raises:
        UsageError: A trace that is not complete or is one of other rollouts, a file that exists, rows from memory
            without a path, or an unknown kind.

    Example:
        >>> file = read_rollouts("rollouts.jsonl")  # doctest: +SKIP
        >>> write_annotations(trace_rollouts(model, tokenizer, file, out="runs/x"), file)  # doctest: +SKIP
        PosixPath('rollouts.jsonl.annotations.jsonl')
    """
    from ..records.folders import TEMPORARY, write_durably

    if path is None and rollouts.path is None:
        raise UsageError("path: expected where to write annotations, since the rollouts came from memory, got none")
    beside = annotations_path(rollouts.path or Path("rollouts"), kind, run.info["trace"].get("share"))
    target = beside if path is None else Path(path)
    check_free(target, overwrite=overwrite)
    if run.status != "complete":
        raise UsageError(f"run: expected a complete trace, got one that is {run.status}; resume it first")
    if (recorded := run.info["inputs"]["rollouts"]["sha256"]) != rollouts.sha256:
        raise UsageError(
            f"rollouts: expected those that were traced (SHA-256 {recorded[:12]}), got {rollouts.source} "
            f"({rollouts.sha256[:12]})"
        )
    write = {"jsonl": _write_json_lines, "parquet": _write_parquet}[kind]
    try:
        write_durably(target, write(_rows(run, rollouts)))
    except BaseException:
        with contextlib.suppress(OSError):
            target.with_name(target.name + TEMPORARY).unlink(missing_ok=True)
        raise
    return target


def _rows(run: Run, rollouts: RolloutFile) -> Iterator[list[dict[str, Any]]]:
    """The rows of some rollouts at a time, in the order of the source."""
    from ..records.schema import LAW_STATISTICS

    for start in range(0, len(rollouts.rollouts), _AT_ONCE):
        some = rollouts.rollouts[start : start + _AT_ONCE]
        where = [("rollout", ">=", some[0].index), ("rollout", "<=", some[-1].index)]
        recorded = run.table("rollouts", ["step", "rollout", "group", "reward", "length"], where).set_index("rollout")
        tokens = _with_laws(run.table("tokens", ["rollout", "position", "token", "token_rank", *LAW_STATISTICS], where))
        lists: dict[Any, Any] = dict(list(tokens.sort_values(["rollout", "position"]).groupby("rollout")))
        rows = []
        for rollout in some:
            if rollout.index not in recorded.index:  # its tokens could not be traced; the run counts it
                continue
            facts: Any = recorded.loc[rollout.index]
            own = lists.get(rollout.index, tokens.iloc[:0])
            key = {"file": rollout.file, "row": rollout.row, "response": rollout.number}
            rows.append(
                key
                | {"id": None if rollout.id is None else str(rollout.id), "rollout": rollout.index}
                | {"step": int(facts["step"]), "group": int(facts["group"]), "trace": run.info["hash"][:12]}
                | {"reward": _number(facts["reward"])}
                | _summary(own, int(facts["length"]))
                | {name: _plain(own[name], kind) for name, (kind, many, _) in ANNOTATION_COLUMNS.items() if many}
            )
        yield rows


def _with_laws(tokens: Any) -> Any:
    """Tokens with the laws that need no weight."""
    from ..laws import entropy_change, log_prob_change, squeeze_boundary
    from ..records.effects import statistics_of

    statistics = statistics_of(tokens)
    boundary = squeeze_boundary(statistics).numpy()
    return tokens.assign(
        squeeze_boundary=boundary,
        below_boundary=boundary > 0,
        dlog_prob=log_prob_change(statistics, 1.0, 1.0).numpy(),
        dentropy=entropy_change(statistics, 1.0, 1.0).numpy(),
    )


def _summary(own: Any, length: int) -> dict[str, Any]:
    """Numbers of a rollout of so many tokens; null means of one without tokens, or whose tokens were not recorded."""
    return {
        "tokens": length,
        "log_prob_sum": _number(own["log_prob"].sum()) if len(own) else None,
        "log_prob_mean": _number(own["log_prob"].mean()),
        "entropy_mean": _number(own["entropy"].mean()),
        "below_boundary_fraction": _number(own["below_boundary"].mean()),
        "entropy_raised_fraction": _number((own["dentropy"] > 0).mean()),
    }


def _number(value: Any) -> float | None:
    """A number to nine digits, which tell any two of float32 apart; null for one that is not known."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.9g}")


def _plain(column: Any, kind: str) -> list[Any]:
    """The values of a column of a data frame, null where one is missing."""
    kinds: dict[str, Callable[[Any], Any]] = {"int": int, "float": _number, "bool": bool}
    of = kinds[kind]
    return [of(value) if known else None for value, known in zip(column, column.notna(), strict=True)]


def _write_json_lines(parts: Iterator[Sequence[dict[str, Any]]]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        for rows in parts:
            for row in rows:
                file.write((json.dumps(row, allow_nan=False) + "\n").encode())

    return write


def _write_parquet(parts: Iterator[Sequence[dict[str, Any]]]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema(pa)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in parts:
                writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))

    return write


def _schema(arrow: Any) -> pa.Schema:
    kinds = {"str": arrow.string(), "int": arrow.int64(), "float": arrow.float64(), "bool": arrow.bool_()}
    return arrow.schema(
        [
            (name, arrow.list_(kinds[kind]) if many else kinds[kind])
            for name, (kind, many, _) in ANNOTATION_COLUMNS.items()
        ]
    )
