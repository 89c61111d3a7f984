"""The tables of a report with what they say in words: for a terminal, for a page, and as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.short_repr import short_repr
from ..common.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Summary"]


@short_repr
@dataclass(frozen=True)
class Summary:
    """The tables of an experiment or a run, with what they say in words.

    Attributes:
        name: of the experiment or the run.
        seeds: the most seeds that one method has.
        tables: in the order in which they are read.
        notes: about runs that did not end well or could not be compared.
        verdict: the result in plain sentences; empty where nothing can be said.
        figures: files that were drawn beside the tables.
        page: `report.html`, where it was written.
    """

    name: str
    seeds: int
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
    figures: tuple[Path, ...] = ()
    page: Path | None = None

    def render(self, console: Console) -> None:
        """Print the tables, then the notes, then the verdict."""
        for table in self.tables:
            console.print(table.to_rich(console.width))
            console.print()
        for text in (*self.notes, *self.verdict):
            style = "bold yellow" if text.startswith("Warning: ") else None
            console.print(text, highlight=False, markup=False, style=style)

    def to_json(self) -> dict[str, Any]:
        """Everything but the files as plain data; intervals have both ends, tables and columns stable keys."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "tables": [table.to_json() for table in self.tables],
            "notes": list(self.notes),
            "verdict": list(self.verdict),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Summary:
        """The summary that `to_json` gave."""
        tables = tuple(Table.from_json(table) for table in data["tables"])
        return cls(data["name"], data["seeds"], tables, tuple(data["notes"]), tuple(data["verdict"]))

    def to_markdown(self) -> str:
        """Verdict, tables and notes as a page."""
        texts = [f"{text}\n" for text in (*self.verdict, *self.notes)]
        return "\n".join([f"# {self.name}\n", *texts, *(table.to_markdown() for table in self.tables)])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()
