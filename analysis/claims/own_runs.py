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


def judge(folder: Path) -> tuple[list[Claim], list[Entry], list[str]]:
    """Judge the run or the experiment in a folder.

    Returns:
        The claims that could be judged, their entries, and one line for each of the others that says why not.

    Raises:
        UsageError: the folder holds no run, or no claim can be judged on it.
    """
    found = load_trace(folder)
    runs = [found] if isinstance(found, Run) else list(found.runs.values())
    methods = of_user(runs)
    claims, entries, skipped = [], [], []
    for claim in all_claims().values():
        if claim.judge is None:
            skipped.append(f"{claim.id}: records of training runs alone do not decide it")
            continue
        if lacking := [table for table in claim.tables if not all(run.rows(table) for run in runs)]:
            skipped.append(f"{claim.id}: the records have no rows in {', '.join(lacking)}")
            continue
        try:
            decision = claim.judge(methods)
        except UsageError as error:
            skipped.append(f"{claim.id}: {error}")
            continue
        claims.append(claim)
        entries.append(Entry(claim.id, decision, made_with(claim), 0.0, {}))
    if not claims:
        raise UsageError(f"--on: no claim can be judged on {folder}:\n" + "\n".join(skipped))
    return claims, entries, skipped
