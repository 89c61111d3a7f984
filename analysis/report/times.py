"""Where the time of an experiment went: wall-clock seconds of each phase, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..common.tables import Cell, Column, Table

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["time_table"]

_NOTE = "Mean over seeds. Runs share the machine with one another; a resumed run counts what its commits hold."
_RATES = {
    "rollout_tokens_per_second": "rollout tokens per second",
    "ms_per_update": "milliseconds per update",
}


def time_table(members: Mapping[str, Sequence[Run]]) -> Table | None:
    """Seconds per phase for each label of `members`; None where nothing was timed.

    The last columns: rollout tokens a second, and milliseconds of the phase update for one optimiser update.
    """
    sums = {label: [_of_run(run) for run in runs if run.rows("timings")] for label, runs in members.items()}
    means = {label: pd.concat(runs, axis=1).mean(axis=1) for label, runs in sums.items() if runs}
    if not means:
        return None
    phases = list(dict.fromkeys(name for mean in means.values() for name in mean.index if name not in _RATES))
    rows: list[tuple[Cell | str, ...]] = []
    for label, mean in means.items():
        rows.append((label, *(Cell(float(mean.get(name, float("nan")))) for name in (*phases, *_RATES))))
    columns = (Column("", "method"), *(Column(phase, phase) for phase in phases))
    rates = tuple(Column(heading, key) for key, heading in _RATES.items())
    return Table("where the time went (seconds)", columns + rates, tuple(rows), _NOTE, "times")


def _of_run(run: Run) -> pd.Series:
    timings = run.table("timings", ["phase", "seconds", "tokens"])
    by_phase = timings.groupby("phase", sort=False).sum()
    seconds = by_phase["seconds"].sort_values(ascending=False)
    numbers = seconds.round(2).to_dict()
    numbers["total"] = round(float(seconds.sum()), 2)
    if "rollout" in by_phase.index:
        numbers["rollout_tokens_per_second"] = round(float(by_phase["tokens"]["rollout"] / seconds["rollout"]))
    updates = int(run.table("steps", ["n_updates"])["n_updates"].sum())
    if updates and "update" in by_phase.index:
        numbers["ms_per_update"] = round(1000 * float(seconds["update"]) / updates, 1)
    return pd.Series(numbers)
