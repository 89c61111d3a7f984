"""The tables of a comparison: base, methods and paired differences at equal steps and at equal Pass@1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..common.tables import Cell, Column, Table
from ..plots import BASE
from .comparison import EFFECTIVE, ENTROPY, Comparison, Matching, over_seeds

__all__ = ["levels_table", "matched_pass_at_1_table", "matched_steps_table"]

Row = tuple[Cell | str, ...]

_UPDATES = "updates: optimiser updates"
_ENTROPY = "entropy: mean over fixed prefixes"
_EFFECTIVE = (
    "effective solutions: exp of the entropy of the distribution over the correct responses, geometric mean over "
    "prompts; 5 means as diverse as 5 equally likely correct responses"
)
_AGAIN = "intervals: over test and validation prompts, with the matching done again for resampled validation prompts"
_MODE = "mass on the mode: exact probability of entering the task's named mode"


def matched_steps_table(comparison: Comparison, matching: Matching) -> Table:
    """Base, methods and differences at the last step that all runs have reached; `matching` is at that step."""
    last = matching.levels[-1]
    note = [
        f"{_prompts(matching)}, {comparison.params} unless said otherwise; ± half of a 95% interval over "
        f"{_over(comparison)}",
        _UPDATES,
        _ENTROPY,
    ]
    note += [_EFFECTIVE] if comparison.metric(EFFECTIVE) else []
    note += [_MODE] if comparison.metric("mode_mass") else []
    note += [column.note for column in comparison.rollouts]
    return Table(
        _title(f"at equal steps (step {last:.0f})", comparison),
        _columns(comparison),
        tuple(_rows(comparison, matching, last)),
        _sentences(note + _paired(comparison)),
        "matched_steps",
    )


def matched_pass_at_1_table(comparison: Comparison, matching: Matching) -> Table:
    """The same where all have the same Pass@1 on the validation prompts: the highest level of `matching`."""
    level = matching.levels[-1]
    samples = comparison.samples
    estimate = "" if samples is None else f", estimated from {samples} {'samples' if samples > 1 else 'sample'} each"
    note = [
        f"As above, interpolated between evaluations. {_prompts(matching)}; these prompts are in every evaluation",
    ]
    note += [_AGAIN] if comparison.seeds == 1 else []
    if any(not reached for reached in matching.table["reached"]):
        note.append("never: Pass@1 does not reach this value")
    if samples is not None:
        note.append(
            "The value counts as reached where the estimate first reaches it, which tends to be too early, by a part "
            f"of its standard error{_standard_error(comparison)}"
        )
    return Table(
        _title(f"at equal Pass@1 = {level:.3f} on validation prompts{estimate}", comparison),
        _columns(comparison),
        tuple(_rows(comparison, matching, level)),
        _sentences(note + _paired(comparison)),
        "matched_pass_at_1",
    )


def levels_table(comparison: Comparison, matching: Matching) -> Table | None:
    """Entropy and effective solutions at every level of `matching`; None where neither was recorded."""
    shown = [
        (column, place, level)
        for key in (ENTROPY, EFFECTIVE)
        if (column := comparison.metric(key)) is not None
        for place, level in enumerate(matching.levels, 1)
    ]
    if not shown:
        return None
    columns = [Column("", "method")]
    for column, place, level in shown:
        name = column.heading.removesuffix(" (nats)")
        unit = " (nats)" if column.heading.endswith("(nats)") else ""
        columns.append(Column(f"{name} at Pass@1 {level:.3f}{unit}", f"{column.key}_at_level_{place}"))
    rows: list[Row] = []
    for label in comparison.members:
        cells = [comparison.value(matching, level, label, column) for column, _, level in shown]
        rows.append((label, *cells))
    for pair in comparison.pairs:
        cells = [comparison.difference(matching, level, pair, column) for column, _, level in shown]
        rows.append((f"{pair[0]} − {pair[1]}", *cells))
    note = [
        "Levels: 25, 50, 75 and 100% of the range of Pass@1 that the methods share, on validation prompts",
        f"Values: {_prompts(matching).lower()}; ± half of a 95% interval over "
        + ("test and validation prompts (one seed)" if comparison.seeds == 1 else f"{comparison.seeds} seeds (t)"),
    ]
    return Table(
        _title("entropy and effective solutions at each level of Pass@1", comparison),
        tuple(columns),
        tuple(rows),
        _sentences(note + _paired(comparison)),
        "every_level",
    )


def _columns(comparison: Comparison) -> tuple[Column, ...]:
    return (
        Column("", "method"),
        Column("step", "step"),
        Column("updates", "updates"),
        *(Column(column.heading, column.key) for column in comparison.metrics),
        *(Column(column.heading, column.key) for column in comparison.rollouts),
    )


def _rows(comparison: Comparison, matching: Matching, level: float) -> list[Row]:
    start = comparison.match("step", [0.0])
    first = next(iter(comparison.runs))
    base = _row(comparison, BASE, [first], start.at(0.0))
    rows = matching.at(level)
    methods = [_row(comparison, label, list(runs.values()), rows) for label, runs in comparison.members.items()]
    differences: list[Row] = [
        (
            f"{pair[0]} − {pair[1]}",
            *["–"] * 2,
            *(comparison.difference(matching, level, pair, column) for column in comparison.metrics),
            *["–"] * len(comparison.rollouts),
        )
        for pair in comparison.pairs
    ]
    return [base, *methods, *differences]


def _row(comparison: Comparison, label: str, run_ids: Sequence[str], rows: pd.DataFrame) -> Row:
    rows = rows[rows["run"].isin(run_ids)]
    where = rows.groupby("run")[["reached", "step", "update"]].first()
    reached = int(where["reached"].sum())
    if reached < len(where):
        empty = ["–"] * (len(comparison.metrics) + len(comparison.rollouts) + 1)
        return (label, f"{reached} of {len(where)}" if reached else "never", *empty)
    cells = [Cell(round(float(where["step"].mean()), 1)), Cell(round(float(where["update"].mean())))]
    cells += [
        over_seeds(rows[(rows["metric"] == column.metric) & (rows["temperature"] == column.temperature)])
        for column in comparison.metrics
    ]
    for of_rollouts in comparison.rollouts:
        parts = [of_rollouts.before(run_id, float(where["step"][run_id])) for run_id in run_ids]
        cells.append(over_seeds(pd.concat(parts)))
    return (label, *cells)


def _title(where: str, comparison: Comparison) -> str:
    truncation = comparison.params.truncation
    return f"{where}, evaluated at {truncation}" if truncation else where


def _prompts(matching: Matching) -> str:
    return f"The same {matching.prompts} test prompts in every row"


def _over(comparison: Comparison) -> str:
    return "prompts (one seed)" if comparison.seeds == 1 else f"{comparison.seeds} seeds (t), of the base over prompts"


def _paired(comparison: Comparison) -> list[str]:
    if not comparison.pairs:
        return []
    first, second = comparison.pairs[0]
    over = "prompts" if comparison.seeds == 1 else "prompts and seeds"
    return [f"{first} − {second}: difference paired over {over}, which is more precise than the rows above suggest"]


def _sentences(parts: Sequence[str]) -> str:
    return ". ".join(part[:1].upper() + part[1:] if place == 0 else part for place, part in enumerate(parts)) + "."


def _standard_error(comparison: Comparison) -> str:
    """That of one estimate of Pass@1 on the validation prompts given the prompts, as text; none from one sample each.

    √(Σ_x p̂_x(1 − p̂_x)/(n − 1)) / N, the unbiased estimate of each prompt's binomial variance.
    """
    rows = next(iter(comparison.evals.values()))
    rows = rows[(rows["split"] == "validation") & (rows["temperature"] == comparison.params.temperature)]
    rows = rows[(rows["step"] == rows["step"].max()) & (rows["n"] > 1)]
    if rows.empty:
        return ""
    n, p = rows["n"].to_numpy(float), (rows["c"] / rows["n"]).to_numpy(float)
    return f" ({np.sqrt((p * (1 - p) / (n - 1)).sum()) / len(rows):.3f} at the end of the first run)"
