"""`docs/records.md` from the schema: what every file, table and column of a run folder means."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.frames import FRAMES, TOKEN_TEXT
from analysis.records.schema import BUCKET_LABELS, RUN_FIELDS, SCHEMA_VERSION, TABLES, Column, Table

__all__ = ["records_page"]

_KINDS = {"str": "text", "ints": "list of int32", "floats": "list of float32"}

_HEAD = f"""# Records

<!-- Generated from analysis/records/schema.py and frames.py by `python -m docs.generators`; do not edit. -->

Schema version {SCHEMA_VERSION}. Read a run or a whole experiment with `analysis.load_trace(folder)`; the part files are
plain Parquet and can be read with pandas, pyarrow or DuckDB as well, as long as you read committed files only.

```
<out>/experiment.json                          the recipe and the list of runs
<out>/<run_id>/run.json                        one run: fields below
<out>/<run_id>/commits/<step>.json             what is committed: file names, row counts, sha256
<out>/<run_id>/<table>/<first>-<last>.r<rank>.parquet
<out>/<run_id>/state/<step>.pt                 what is needed to resume from the last commit; deleted when complete
<out>/<run_id>/checkpoints/                    policies as Hugging Face folders
```

- Part files hold what was recorded between the commits `first` and `last`: steps first ≤ step < last, evaluations of
  the policy after up to `last` steps. Steps are those of the commits, six digits; rank is the process that wrote it.
- A file counts only when a commit names it. A commit appears by one rename, after everything that it names is on disk;
  readers ignore what an interruption left behind, and resuming deletes it.
- A value belongs to the parameters *before* the update that it is filed under. Statistics are of softmax(logits / T) at
  the training temperature T. Positions, ranks and groups count from 0; entropies are in nats.
- `weight` is what a hook measured. It is null where no gradient was seen, and is never filled in from a formula.
- Wall-clock times are in `timings` and run.json only. `analysis.records.digest(run)` is a hash over the values of all
  other tables, whatever the chunks: runs of one recipe, seed, thread count and set of versions have equal digests.
- First-order quantities (gradient norms, Δ log π, ΔH by the law) are not stored. They follow from w, log π_y, H, Σπ²
  and Σπ² log π: `run.laws()`, `run.flows()`, `run.prediction_summary()`, `run.shares_summary()`, described at the end.
- Every data frame carries the units of its columns: `run.table("tokens").attrs["units"]["entropy"]` is "nats".
- Rank buckets, counted from one: {" · ".join(BUCKET_LABELS)}.
"""


def records_page() -> str:
    """The whole page as Markdown."""
    fields = [f"| {name} | {doc} |" for name, (doc, _) in RUN_FIELDS.items()]
    run = ["## run.json", "", "| field | meaning |", "|---|---|", *fields, ""]
    sections = [*map(_stored, TABLES.values()), _DERIVED, *map(_derived, FRAMES.values())]
    return "\n".join([_HEAD, *run, *sections]).rstrip() + "\n"


_DERIVED = """## Columns that follow from the records

They are computed on reading, in float64, and are not part of a run folder.
"""


def _stored(table: Table) -> str:
    """A table of the run folder, with the column that data frames of it have besides."""
    text = (TOKEN_TEXT,) if "token" in table.names else ()
    return _section("## " + table.name, (*table.columns, *text), table)


def _derived(frame: Table) -> str:
    """A frame that `Run` makes from the records."""
    return _section(f"### run.{frame.name}()", frame.columns, frame)


def _section(heading: str, columns: Sequence[Column], table: Table) -> str:
    rows = [
        f"| {c.name} | {_KINDS.get(c.kind, c.kind)}{', may be null' if c.null else ''} | {c.unit} | {_cell(c.doc)} |"
        for c in columns
    ]
    head = [heading, "", f"One row: {table.row}. Key: {', '.join(table.key)}.", ""]
    return "\n".join([*head, "| column | type | unit | meaning |", "|---|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
