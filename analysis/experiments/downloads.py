"""Models of the Hugging Face Hub that runs need: their commits, and the download before the first run starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from toy_models.model_sources.hub import ensure_hub_model, hub_folder

from ..errors import UsageError
from ..recipes.fields import RunConfig
from ..recipes.model_checks import model_sources, pinned
from ..recipes.recipe import PlannedRun

__all__ = ["download_models", "pinned_run"]

_MB = 1_000_000


def pinned_run(run: PlannedRun) -> PlannedRun:
    """The run with the commits of its models as their revisions, which are the same on every machine."""
    return dataclasses.replace(run, config=pinned(run.config))


def download_models(config: RunConfig, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Download the models of a run that are not in the cache, with events that count megabytes.

    Raises:
        UsageError: one cannot be downloaded.
    """
    for field, source in model_sources(config).items():
        if source.kind != "hub" or hub_folder(source) is not None:
            continue
        event = {"label": source.name, "phase": "download", "note": "MB"}

        def progress(done: int, total: int, event: dict[str, Any] = event) -> None:
            on_event(event | {"step": done // _MB, "steps": total // _MB})

        on_event(event)
        try:
            ensure_hub_model(source, progress=progress)
        except ValueError as error:
            raise UsageError(f"{field} = {source.name!r}: {error}") from error
