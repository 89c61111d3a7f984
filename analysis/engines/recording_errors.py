"""What an error of recording does to training, as `on_error` of `analysis.watch` says."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["RecordingErrors"]


class RecordingErrors:
    """Raises errors of recording ("stop"), or warns of the first one and remembers it ("warn")."""

    _trainer: Any
    _on_error: str
    _error: Exception | None = None

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
