"""What came out of runs, as tables and a verdict; a single run of any kind has a summary too.

Runs that were evaluated are compared at equal steps and at equal Pass@1. Runs without evaluations (those of `attach`
and traces of recorded rollouts) are described by their tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..common.tables import Table
from ..errors import UsageError
from ..evaluation import EmptyRangeError
from .comparison import comparisons
from .comparison_tables import levels_table, matched_pass_at_1_table, matched_steps_table
from .health import health, health_sentence
from .prediction_tables import first_order_table, law_table
from .score_notes import score_notes
from .sources import Source, runs_of
from .summary import Summary
from .times import time_table
from .trace_summary import summarize_trace
from .verdict import verdict

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["summarize"]


def summarize(source: Source) -> Summary:
    """The summary of an experiment, of one run, or of several runs, as far as they are committed.

    Runs that diverged or did not end are named with their status and stay out of a comparison of several.

    Args:
        source: an `Experiment`, a `Run` of any kind, or a list of runs.

    Raises:
        UsageError: nothing is committed yet.

    Example:
        >>> print(summarize(analysis.load_trace("runs/…")).verdict)  # doctest: +SKIP
    """
    runs = {run.run_id: run for run in runs_of(source)}
    done = {run_id: run for run_id, run in runs.items() if run.status == "complete"} or runs
    name = str(getattr(source, "name", None) or " and ".join(run.label for run in runs.values()))
    if any(run.rows("evals") for run in done.values()):
        return _summary_of_evaluated(
            name, {k: run for k, run in done.items() if run.rows("evals")}, _unfinished(runs, done)
        )
    if any(run.rows("tokens") for run in runs.values()):
        recorded = [run for run in runs.values() if run.rows("tokens")]
        return _summary_of_tokens(name, recorded, _unfinished(runs, runs))
    if not any(run.rows(table) for run in runs.values() for table in ("steps", "flows")):
        where = getattr(source, "folder", None) or ", ".join(str(run.folder) for run in runs.values())
        raise UsageError(
            f"run: expected evaluations, tokens or steps, but nothing is committed in {where} yet; "
            "wait for the first commit"
        )
    return Summary(
        name, 1, (), (*_unfinished(runs, runs), "There are no tables: no run was evaluated and none recorded tokens.")
    )


def _unfinished(runs: Mapping[str, Run], shown: Mapping[str, Run]) -> list[str]:
    """A note on each run that is not complete: whether the tables show what is committed, or leave it out."""
    notes = []
    for run_id, run in runs.items():
        if run.status != "complete":
            seed = "" if run.seed is None else f" (seed {run.seed})"
            what = "; what is committed is shown" if run_id in shown else " and left out of the tables"
            notes.append(f"{run.label}{seed} is {run.status} after {run.committed_step} steps{what}.")
    return notes


def _summary_of_evaluated(name: str, runs: Mapping[str, Run], notes: Sequence[str]) -> Summary:
    tables: list[Table] = []
    notes, sentences = list(notes), []
    groups = comparisons(runs)
    for comparison in groups:
        ends = comparison.at_ends()
        at_steps = ends.match("step", [ends.last_step])
        tables.append(matched_steps_table(ends, at_steps))
        at_level = None
        if comparison.pairs:
            try:
                at_level = comparison.match("pass@1")
            except EmptyRangeError as error:
                notes.append(f"No table at equal Pass@1: {error}")
            else:
                tables.append(matched_pass_at_1_table(comparison, at_level))
                tables += [table] if (table := levels_table(comparison, at_level)) is not None else []
        sentences += verdict(ends, at_steps, at_level)
        sentences += [text] if (text := health_sentence(health(ends))) else []
    notes += score_notes(runs)
    seeds = max(comparison.seeds for comparison in groups)
    by_label: dict[str, list[Run]] = {}
    for run in runs.values():
        by_label.setdefault(run.label, []).append(run)
    others = (law_table(runs), first_order_table(runs), time_table(by_label))
    tables += [table for table in others if table is not None]
    return Summary(name, seeds, tuple(tables), tuple(notes), tuple(sentences))


def _summary_of_tokens(name: str, runs: Sequence[Run], notes: Sequence[str]) -> Summary:
    parts = [summarize_trace(run) for run in runs]
    if len(runs) > 1:
        parts = [_named(part, _name_of(run, runs)) for part, run in zip(parts, runs, strict=True)]
    tables = [table for part in parts for table in part.tables]
    return Summary(
        name,
        1,
        tuple(tables),
        tuple(dict.fromkeys([*notes, *(note for part in parts for note in part.notes)])),
        tuple(sentence for part in parts for sentence in part.verdict),
    )


def _name_of(run: Run, runs: Sequence[Run]) -> str:
    """The label of a run, with its seed where several have that label."""
    alike = sum(other.label == run.label for other in runs)
    return run.label if alike == 1 else f"{run.label} (seed {run.seed})"


def _named(summary: Summary, name: str) -> Summary:
    """The same summary, each of whose tables and sentences says what it is about."""
    return replace(
        summary,
        tables=tuple(replace(table, title=f"{name}: {table.title}") for table in summary.tables),
        notes=tuple(f"{name}: {note}" for note in summary.notes),
        verdict=tuple(f"{name}: {sentence}" for sentence in summary.verdict),
    )
