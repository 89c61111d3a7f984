"""Where an experiment lies: a folder, or a URL of shared storage with the local copy through which it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..records.folders import EXPERIMENT_FILE, make_folder
from ..records.shared_storage import (
    SharedFolder,
    delete_experiment,
    is_url,
    pull_experiment,
    push_experiment,
    writing,
)

__all__ = ["Place", "placed"]


@dataclass(frozen=True)
class Place:
    """A folder, and the shared folder of which it is the copy, if it is one."""

    folder: Path
    shared: SharedFolder | None = None

    def of_run(self, run_id: str) -> str | Path:
        """Where a run is written, as `train_runs` takes it."""
        return self.folder / run_id if self.shared is None else f"{self.shared.url}/{run_id}"

    def publish(self) -> None:
        """Bring experiment.json to the shared folder; the runs do so themselves."""
        if self.shared is not None and (self.folder / EXPERIMENT_FILE).exists():
            push_experiment(self.shared, self.folder)

    def delete(self) -> None:
        """Delete what the shared folder holds of the experiment."""
        if self.shared is not None:
            delete_experiment(self.shared)


@contextlib.contextmanager
def placed(out: str | Path) -> Iterator[Place]:
    """The place that `out` names; at a URL as its only writer, with a copy that is up to date.

    Messages of the errors that are raised in the block name the URL where they would name the copy.
    """
    if not is_url(out):
        yield Place(Path(out))
        return
    shared = SharedFolder(str(out))
    place = Place(shared.copy("writing"), shared)
    try:
        make_folder(place.folder)
        with writing(shared):
            pull_experiment(shared, place.folder)
            yield place
    except (ValueError, RuntimeError, KeyboardInterrupt) as error:
        error.args = tuple(
            arg.replace(str(place.folder), shared.url) if isinstance(arg, str) else arg for arg in error.args
        )
        raise
