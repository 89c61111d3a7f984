"""What is read of a run, without the class that reads it.

Whatever follows from the records (`effects`, `step_shares`, `hypothetical_weights`) takes a `Recorded`: a run read from
its folder, or a stand-in that holds the same tables in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import pandas as pd

__all__ = ["Recorded"]


class Recorded(Protocol):
    """A run as its tables and its run.json; `Run` is one."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def info(self) -> Mapping[str, Any]:
        """The fields of run.json (`schema.RUN_FIELDS`)."""

    @overload
    def table(
        self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Any = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Any = None, as_: str = "pandas") -> Any:
        """The rows of a table, see `Run.table`."""
