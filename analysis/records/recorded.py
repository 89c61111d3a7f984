"""What is read of a run, without the class that reads it.

Whatever follows from the records (`effects`, `step_shares`, `hypothetical_weights`) takes a `Recorded`: a run read from
its folder, or a stand-in that holds the same tables in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

import pandas as pd

if TYPE_CHECKING:
    import pyarrow.compute as pc

__all__ = ["Recorded", "Where"]

Filters: TypeAlias = "Sequence[tuple[str, str, object]]"
# Which rows: filters that all hold, lists of filters of which one holds throughout, or an expression; None for all rows
Where: TypeAlias = "Filters | Sequence[Filters] | pc.Expression | None"


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
        self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., as_: Literal["pandas"] = ...
    ) -> pd.DataFrame: ...

    @overload
    def table(self, name: str, columns: Sequence[str] | None = ..., where: Where = ..., *, as_: str) -> Any: ...

    def table(self, name: str, columns: Sequence[str] | None = None, where: Where = None, as_: str = "pandas") -> Any:
        """The rows of a table, see `Run.table`."""
