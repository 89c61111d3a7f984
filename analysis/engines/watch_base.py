"""What both kinds of watch share: what an error of recording does to training, and how they show themselves."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..common.notebook_html import html_table
from ..probes.output_heads import OutputHead
from ..probes.record_spec import RecordSpec

__all__ = ["WatchBase"]


class WatchBase(ABC):
    """A watch of one trainer. Errors of recording are raised ("stop"), or the first is warned of and remembered."""

    _trainer: Any
    _head: OutputHead
    _spec: RecordSpec
    _folder: Path | None
    _status: str
    _on_error: str
    _error: Exception | None = None
    _no_folder = "in memory"  # where records are that have no folder of the user's

    @property
    @abstractmethod
    def updates(self) -> int:
        """Optimiser updates recorded so far."""

    @abstractmethod
    def close(self, status: str = "complete") -> None:
        """End recording."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._trainer).__name__}, {self._status}, updates={self.updates})"

    def _repr_html_(self) -> str:
        """For notebooks: what is watched, and how much is recorded so far."""
        facts = [
            ("trainer", type(self._trainer).__name__),
            ("model", self._head.description),
            ("state", self._status),
            ("updates", self.updates),
            ("fraction of prompts recorded", self._spec.tokens),
            ("folder", self._folder if self._folder is not None else self._no_folder),
        ]
        return html_table("Watch", "· run, records()", facts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close("complete" if kind is None else "interrupted")

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Raise an error of recording, or warn of it once and remember it, as `on_error` says."""
        try:
            yield
        except Exception as error:
            if self._on_error == "stop":
                raise
            if self._error is None:
                self._error = error
                update = self._trainer.state.global_step
                warnings.warn(
                    f"analysis.watch: recording ends at update {update}, training goes on: {error}", stacklevel=4
                )

    @property
    def failed(self) -> bool:
        """Whether an error of recording was warned of."""
        return self._error is not None
