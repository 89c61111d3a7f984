"""A user's own runs, judged by every entry that their records can decide."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..records import Run, load_trace
from .claim import Claim
from .evidence import of_user
from .ledger import Entry, made_with
from .registry import all_claims

__all__ = ["judge"]


def judge(folder: Path) -> tuple[list[Claim], list[Entry], dict[str, str]]:
    """Judge the run or the experiment in a folder.

    Args:
        folder: A run or an experiment, as `analysis.load_trace` reads it.

    Returns:
        The claims that could be judged, their entries, and id -> why not for each of the others.

    Raises:
        UsageError: the folder holds no complete run, or no claim can be judged on it.

    Example:
        >>> claims, entries, skipped = judge(Path("runs/mine"))  # doctest: +SKIP
        >>> {entry.id: entry.decision.verdict for entry in entries}  # doctest: +SKIP
        {'P2': 'undecided'}
    """
    found = load_trace(folder)
    runs = [found] if isinstance(found, Run) else list(found.runs.values())
    methods = of_user(runs)
    if not methods:
        statuses = ", ".join(f"{run.run_id} ({run.status})" for run in runs) or "none"
        raise UsageError(f"--on: expected runs that are complete, got {statuses} in {folder}; resume them first")
    complete = [run for seeds in methods.values() for run in seeds.values()]
    claims, entries, skipped = [], [], {}
    for claim in all_claims().values():
        if claim.judge is None:
            skipped[claim.id] = "records of training runs alone do not decide it"
            continue
        if lacking := [table for table in claim.tables if not all(run.rows(table) for run in complete)]:
            skipped[claim.id] = f"the records have no rows in {', '.join(lacking)}"
            continue
        try:
            decision = claim.judge(methods)
        except UsageError as error:
            skipped[claim.id] = str(error)
            continue
        claims.append(claim)
        entries.append(Entry(claim.id, decision, made_with(claim), 0.0, {}))
    if not claims:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in skipped.items())
        raise UsageError(f"--on: expected runs that some claim can be judged on, got {folder}:\n{reasons}")
    return claims, entries, skipped
