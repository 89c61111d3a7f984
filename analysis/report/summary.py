"""What came out of an experiment, as tables: base and methods at matched steps, and at matched Pass@1.

At equal steps the methods have travelled different distances, so both matchings are always shown together. The levels
of Pass@1 follow the rule of `analysis.evaluation.matched`; the main table is at the highest of them, where the methods
have come furthest, and another one goes through them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.tables import Cell, Table
from ..errors import UsageError
from ..evaluation import EmptyRangeError, SamplingParams, curves, get_metric, interval, matched
from ..plots import BASE
from .curves import samples_per_prompt
from .prediction_curves import QUANTITIES, early_and_late, explained_between
from .rollout_ratios import RATIO_STEPS, ROLLOUT_KL, ROLLOUT_KL_NOTE, OfRollouts, of_rollouts
from .times import time_table

if TYPE_CHECKING:
    from rich.console import Console

    from ..records import Experiment, Run

__all__ = ["Summary", "summarize"]

KS = (1, 8, 64, 256)
KS_BESIDE = (1, 8)  # at the second temperature
_MODE_COLUMNS = {"mode": "mode_mass", "p in": "mode_p", "p out": "outside_p"}  # of tasks that name a mode

_NOTE = (
    "Test prompts, {} unless said; ± half of a 95% interval over {}. opt. steps: optimiser updates; H: entropy on "
    f"fixed prefixes; {{}}corr. ratio: correct training rollouts of the {RATIO_STEPS} steps before, of the first step "
    "for the base."
)
_MODE_NOTE = "mode: exact probability of entering the task's named mode; p in, p out: success given that mode or not; "
_MEASURES = {"law_sign_agreement": "sign", "law_spearman": "ρ", "law_slope": "slope", "jvp_r2": "JVP R²"}
_PREDICTION_NOTE = (
    "Contexts whose token had a weight, of rewarded (+) and unrewarded (−) responses. Law, the token's own direction "
    "at a unit logit step: share of equal signs, Spearman's ρ, fitted slope. JVP: first order in the parameter step."
)
_FIRST_ORDER_NOTE = (
    "R² of the realised changes of one update explained by the JVP, first order in the parameter step, at contexts of "
    "its own batch and of the held-out panel; early, late: first and last third of the updates with a JVP; in brackets "
    "a 95% interval over {}."
)


@dataclass(frozen=True)
class Summary:
    """The tables of an experiment, and lines about runs that did not end well or could not be compared."""

    name: str
    seeds: int
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    def render(self, console: Console) -> None:
        """Print the tables."""
        for table in self.tables:
            console.print(table.to_rich(console.width))
            console.print()
        for note in self.notes:
            console.print(note, highlight=False, markup=False)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data, intervals with both ends."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "tables": [table.to_json() for table in self.tables],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """The tables and notes as a page."""
        return "\n".join(
            [f"# {self.name}\n", *(table.to_markdown() for table in self.tables), *(f"{note}\n" for note in self.notes)]
        )


def summarize(experiment: Experiment) -> Summary:
    """The summary of the runs of an experiment, as far as they are committed.

    Runs that diverged or did not end are named with their status and stay out of the comparison. Raises UsageError
    where no run was evaluated.
    """
    runs = {run_id: run for run_id, run in experiment.runs.items() if run.committed_step is not None}
    done = {run_id: run for run_id, run in runs.items() if run.status == "complete"} or runs
    if not any(run.rows("evals") for run in done.values()):
        raise UsageError(f"experiment: no run in {experiment.folder} was evaluated yet; wait for the first evaluation")
    evals = {run_id: run.table("evals") for run_id, run in done.items()}
    seeds = max(len(members) for members in _members(done).values())
    notes = [
        f"{run.label} (seed {run.seed}) is {run.status} after {run.committed_step} steps and left out."
        for run_id, run in runs.items()
        if run_id not in done or run.status != "complete"
    ]
    tables = []
    for under in _by_truncation(evals):  # values under different laws are not compared
        some = {run_id: done[run_id] for run_id in under}
        tables.append(_at_steps(some, under, "prompts (one seed)" if seeds == 1 else f"{seeds} seeds (t)"))
        try:
            tables += _at_pass_at_1(some, under)
        except EmptyRangeError as error:
            notes.append(f"No table at matched Pass@1: {error}")
    if (predictions := _predictions(done)) is not None:
        tables.append(predictions)
    if (first_order := _first_order(done)) is not None:
        tables.append(first_order)
    if (times := time_table({label: list(of.values()) for label, of in _members(done).items()})) is not None:
        tables.append(times)
    return Summary(experiment.name, seeds, tuple(tables), tuple(notes))


def _by_truncation(evals: Mapping[str, pd.DataFrame]) -> list[dict[str, pd.DataFrame]]:
    """The runs apart by what truncates the first law that each was evaluated under, with their rows of it."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for run_id, rows in evals.items():
        first, *others = SamplingParams.all_in(rows) or [SamplingParams()]
        parts = [law.rows(rows) for law in (first, *others) if law.truncation == first.truncation]
        found.setdefault(first.truncation, {})[run_id] = pd.concat(parts)
    return list(found.values())


def _first_law(evals: Mapping[str, pd.DataFrame]) -> SamplingParams:
    return (SamplingParams.all_in(next(iter(evals.values()))) or [SamplingParams()])[0]


def _title(where: str, evals: Mapping[str, pd.DataFrame]) -> str:
    truncation = _first_law(evals).truncation
    return f"{where}, evaluated at {truncation}" if truncation else where


def _temperatures(evals: Mapping[str, pd.DataFrame]) -> list[float]:
    """The first two temperatures evaluated."""
    return [float(t) for t in next(iter(evals.values()))["temperature"].unique()[:2]]


def _compare(evals: Mapping[str, pd.DataFrame], at: Any, levels: Sequence[float] | None) -> pd.DataFrame:
    """Rows of `matched` for the metrics of the tables, at each of their temperatures."""
    first = _first_law(evals)
    by_temperature: dict[float, list[str]] = {}
    for metric, temperature in _columns(evals).values():
        by_temperature.setdefault(temperature, []).append(metric)
    parts = [
        matched(
            evals,
            metrics,
            at,
            levels=levels,
            temperature=temperature,
            match_temperature=first.temperature,
            top_k=first.top_k,
            top_p=first.top_p,
            estimated=True,
        )
        for temperature, metrics in by_temperature.items()
    ]
    return pd.concat([part.table for part in parts])


def _columns(evals: Mapping[str, pd.DataFrame]) -> dict[str, tuple[str, float]]:
    """Heading -> (metric, temperature): those that all runs have. Of samples, Pass@k exists up to their number."""
    first, *second = _temperatures(evals)
    samples = samples_per_prompt(evals.values())
    ks = KS if samples is None else sorted({1, samples // 4, samples // 2, samples} - {0})
    columns = {f"Pass @{k}": (f"pass@{k}", first) for k in ks}
    columns |= {f"T={t:g} @{k}": (f"pass@{k}", t) for t in second for k in KS_BESIDE}
    columns |= {"H nats": ("entropy_fixed", first), "eff. sol.": ("effective_solutions", first)}
    columns |= {heading: (metric, first) for heading, metric in _MODE_COLUMNS.items()}
    return {heading: of for heading, of in columns.items() if all(_has(rows, *of) for rows in evals.values())}


def _has(rows: pd.DataFrame, metric: str, temperature: float) -> bool:
    at = rows[(rows["split"] == "test") & (rows["temperature"] == temperature)]
    return bool(np.isfinite(get_metric(metric).values(at)).any())


def _headings(columns: Mapping[str, tuple[str, float]], beside: Mapping[str, OfRollouts]) -> tuple[str, ...]:
    return ("", "step", "opt. steps", *columns, *beside)


def _row(
    label: str,
    members: Mapping[str, Run],
    rows: pd.DataFrame,
    columns: Mapping[str, tuple[str, float]],
    beside: Mapping[str, OfRollouts],
) -> tuple[Cell | str, ...]:
    """One line: where it was matched, the metrics, and what `beside` takes from the rollouts before."""
    where = rows.groupby("run")[["reached", "step", "update"]].first()
    reached = int(where["reached"].sum())
    if reached < len(where):
        return (label, f"{reached} of {len(where)}" if reached else "never", *["–"] * (len(columns) + len(beside) + 1))
    cells = [Cell(round(float(where["step"].mean()), 1)), Cell(round(float(where["update"].mean())))]
    for metric, temperature in columns.values():
        cells.append(_over_seeds(rows[(rows["metric"] == metric) & (rows["temperature"] == temperature)]))
    for taken in beside.values():
        parts = [taken(run, float(where["step"][run_id])) for run_id, run in members.items()]
        cells.append(_over_seeds(pd.concat(parts)))
    return (label, *cells)


def _over_seeds(rows: pd.DataFrame) -> Cell:
    """A row's own interval over prompts, or that over seeds where there are several rows."""
    if len(rows) == 1:
        return Cell(*(float(rows[name].iloc[0]) for name in ("value", "low", "high")))
    found = interval(rows["value"], over="seeds")
    return Cell(found.estimate, found.low, found.high)


def _at_steps(runs: Mapping[str, Run], evals: Mapping[str, pd.DataFrame], over: str) -> Table:
    ends = {(rows["step"].min(), rows["step"].max()) for rows in evals.values()}
    if len(ends) == 1:  # more prompts are evaluated at the start and the end than in between
        evals = {run_id: rows[rows["step"].isin(next(iter(ends)))] for run_id, rows in evals.items()}
    last = min(float(rows["step"].max()) for rows in evals.values())
    rows, columns, beside = _compare(evals, "step", [last]), _columns(evals), of_rollouts(runs)
    lines = [_base_row(runs, evals), *_rows(runs, rows, columns)]
    note = _NOTE.format(
        _first_law(evals),
        over,
        ("eff. sol.: effective number of correct responses; " if "eff. sol." in columns else "")
        + (_MODE_NOTE if "mode" in columns else ""),
    )
    note += ROLLOUT_KL_NOTE if ROLLOUT_KL in beside else ""
    return Table(_title(f"at matched steps ({last:.0f})", evals), _headings(columns, beside), tuple(lines), note)


def _at_pass_at_1(runs: Mapping[str, Run], evals: Mapping[str, pd.DataFrame]) -> list[Table]:
    columns = _columns(evals)
    rising = {run_id: evals[run_id] for run_id in _rising(evals)}
    levels = sorted(_compare(rising, "pass@1", None)["level"].unique())
    matched_rows = _compare(evals, "pass@1", levels)
    rows = matched_rows[matched_rows["level"] == levels[-1]]
    lines = [_base_row(runs, evals), *_rows(runs, rows, columns)]
    note = "As above, interpolated between evaluations. never: the level was not reached."
    samples, estimate = samples_per_prompt(evals.values()), ""
    if samples is not None:
        estimate = f", estimated from {samples} {'samples' if samples > 1 else 'sample'} each"
        note += (
            " The level is reached where the estimate first reaches it, early by about its standard error"
            f"{_standard_error(evals)}."
        )
    title = _title(f"at matched Pass@1 = {levels[-1]:.3f} on validation prompts{estimate}", evals)
    main = Table(title, _headings(columns, of_rollouts(runs)), tuple(lines), note)
    across_levels = [
        (name, metric)
        for name, metric in (("H", "entropy_fixed"), ("eff", "effective_solutions"))
        if metric in set(rows["metric"])
    ]
    shown = {f"{name} @ {level:.3f}": (metric, level) for name, metric in across_levels for level in levels}
    across: list[tuple[Cell | str, ...]] = []
    for label, members in _members(runs).items():
        of = matched_rows[matched_rows["run"].isin(members)]
        cells = [_over_seeds(of[(of["metric"] == metric) & (of["level"] == level)]) for metric, level in shown.values()]
        across.append((label, *cells))
    return [main, Table(_title("at every level of matched Pass@1", evals), ("", *shown), tuple(across))]


def _standard_error(evals: Mapping[str, pd.DataFrame]) -> str:
    """That of one estimate of Pass@1 on the validation prompts given the prompts, as text; none from one sample each.

    √(Σ_x p̂_x(1 − p̂_x)/(n − 1)) / N, the unbiased estimate of each prompt's binomial variance.
    """
    rows = next(iter(evals.values()))
    rows = rows[(rows["split"] == "validation") & (rows["temperature"] == _temperatures(evals)[0])]
    rows = rows[(rows["step"] == rows["step"].max()) & (rows["n"] > 1)]
    if rows.empty:
        return ""
    n, p = rows["n"].to_numpy(float), (rows["c"] / rows["n"]).to_numpy(float)
    return f" ({np.sqrt((p * (1 - p) / (n - 1)).sum()) / len(rows):.3f} at the end of the first run)"


def _rising(evals: Mapping[str, pd.DataFrame]) -> list[str]:
    """Runs that get above where every run starts. The others reach no level, and have no say in the levels."""
    first = _temperatures(evals)[0]
    curve = {}
    for run_id, rows in evals.items():
        known = curves(rows)
        known = known[(known["split"] == "validation") & (known["temperature"] == first)]
        curve[run_id] = known["pass@1"].to_numpy()
    start = max(values[0] for values in curve.values())
    return [run_id for run_id, values in curve.items() if values.max() > start] or list(evals)


def _rows(
    runs: Mapping[str, Run], rows: pd.DataFrame, columns: Mapping[str, tuple[str, float]]
) -> list[tuple[Cell | str, ...]]:
    beside = of_rollouts(runs)
    return [
        _row(label, members, rows[rows["run"].isin(members)], columns, beside)
        for label, members in _members(runs).items()
    ]


def _base_row(runs: Mapping[str, Run], evals: Mapping[str, pd.DataFrame]) -> tuple[Cell | str, ...]:
    """The base on the same prompts: any run before its first step."""
    rows = _compare(evals, "step", [0.0])
    first = rows["run"].iloc[0]
    return _row(BASE, {first: runs[first]}, rows[rows["run"] == first], _columns(evals), of_rollouts(runs))


def _members(runs: Mapping[str, Run]) -> dict[str, dict[str, Run]]:
    """label -> its runs, one a seed."""
    members: dict[str, dict[str, Run]] = {}
    for run_id, run in runs.items():
        members.setdefault(run.label, {})[run_id] = run
    return members


def _predictions(runs: Mapping[str, Run]) -> Table | None:
    """How the law and the JVP met what happened at the contexts of the batches; None where none were recorded."""
    rows: list[tuple[Cell | str, ...]] = []
    for run in runs.values():
        if not run.rows("flows"):
            continue
        summary = run.prediction_summary()
        summary = summary[summary["weights"] == "nonzero"]
        name = run.run_id if len(_members(runs)[run.label]) > 1 else run.label
        for sign, of in summary.groupby("sign"):
            chosen = [of[of["quantity"] == quantity].iloc[0] for quantity in ("log_prob", "entropy")]
            cells = [Cell(float(one[measure])) for one in chosen for measure in _MEASURES]
            rows.append((f"{name} {'+' if sign == 1 else '−'}", f"{chosen[0]['law_n']:.0f}", *cells))
    if not rows:
        return None
    columns = tuple(f"{of}: {name}" for of in ("log π", "H") for name in _MEASURES.values())
    return Table("law and JVP against what happened", ("", "n", *columns), tuple(rows), _PREDICTION_NOTE)


def _first_order(runs: Mapping[str, Run]) -> Table | None:
    """How much of the realised changes the JVP explained, early and late; None where no update recorded one."""
    parts = [run.flows().assign(label=run.label, seed=run.seed) for run in runs.values() if run.rows("flows")]
    if not parts or all(flows["jvp_dlog_prob"].isna().all() for flows in parts):
        return None
    rows: list[tuple[Cell | str, ...]] = []
    for (label, kind), of in pd.concat(parts).groupby(["label", "kind"], sort=False):
        found = [explained_between(part, column) for column in QUANTITIES for part in early_and_late(of)]
        cells = [Cell(one.estimate, one.low, one.high, digits=4) for one in found]
        rows.append((f"{label}, {'panel' if kind == 'panel' else 'own batch'}", *cells))
    columns = tuple(f"{name} {when}" for name in QUANTITIES.values() for when in ("early", "late"))
    seeds = max(len(members) for members in _members(runs).values())
    note = _FIRST_ORDER_NOTE.format("prompts (one seed, jackknife)" if seeds == 1 else f"{seeds} seeds (t)")
    return Table("R² of the first order", ("", *columns), tuple(rows), note)
