"""What a report is made from: one run, several runs, or an experiment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..errors import UsageError

if TYPE_CHECKING:
    from ..records import Experiment, Run

__all__ = ["Source", "runs_of", "with_distinct_names"]

Source: TypeAlias = "Run | Experiment | Sequence[Run]"


def runs_of(source: Source) -> list[Run]:
    """The runs of `source`: of an experiment those with something committed, in the recipe's order."""
    if isinstance(source, Sequence):
        return list(source)
    runs = getattr(source, "runs", None)
    return [source] if runs is None else [run for run in runs.values() if run.committed_step is not None]  # type: ignore[list-item]


def with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """Runs of different folders that can be compared: no two have the same id, none are taken for seeds by mistake.

    Runs of one label and different seeds are seeds of one method. Runs of the same label and seed come from different
    experiments: each gets the name of its experiment's folder, or of its own where it stands alone.

    Raises:
        UsageError: the same folder twice.
    """
    folders = [run.folder.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"run: expected different runs, got {folder} twice; name each once")
    known = [(run.label, run.seed) for run in runs]
    named = []
    for run, folder in zip(runs, folders, strict=True):
        clone = copy.copy(run)
        clone.info = dict(run.info)
        if known.count((run.label, run.seed)) > 1:
            parent = folder.parent.name if (folder.parent / "experiment.json").exists() else folder.name
            clone.info["label"] = f"{run.label} ({parent})"
        clone.info["run_id"] = str(run.folder)
        named.append(clone)
    return named
