"""Tables of estimates with their intervals, for a terminal, for Markdown and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Cell", "Table", "number"]


@dataclass(frozen=True)
class Cell:
    """An estimate with the ends of its interval, each NaN where there is none. As text, ± is half the interval's width;
    with `digits` (for intervals that are far from even) the ends themselves are given, to so many decimals.

    >>> str(Cell(0.534, 0.49, 0.57)), str(Cell(12.0)), str(Cell(math.nan)), str(Cell(0.98, 0.9, 0.99, digits=2))
    ('0.53 ±.04', '12', '–', '0.98 (0.90 to 0.99)')
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    digits: int | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "–"
        if self.digits is not None:
            value, low, high = (f"{number:.{self.digits}f}" for number in (self.value, self.low, self.high))
            return f"{value} ({low} to {high})" if math.isfinite(self.high - self.low) else value
        half = (self.high - self.low) / 2
        if not math.isfinite(half):
            return number(self.value)
        digits = 0 if abs(self.value) >= 10 and half >= 1 else 2 if half >= 0.01 else 3
        return f"{self.value:.{digits}f} ±{f'{half:.{digits}f}'.removeprefix('0')}"

    def to_json(self) -> dict[str, float | None]:
        """value, low and high; null for what is missing, since JSON has no NaN."""
        known = {"value": self.value, "low": self.low, "high": self.high}
        return {name: end if math.isfinite(end) else None for name, end in known.items()}


def number(value: float) -> str:
    """A number without an interval: whole where it is whole, else with three digits at most."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.0f}" if value == round(value) else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """`rows` hold as many cells or texts as there are `columns`; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    note: str = ""

    def to_rich(self, width: int) -> RichTable:
        """The table for a terminal of `width` columns; one too narrow for it gets it turned on its side."""
        from rich import box
        from rich.table import Table as RichTable

        grid = [self.columns, *(tuple(map(str, row)) for row in self.rows)]
        columns = list(zip(*grid, strict=True))
        least = (
            max(map(len, columns[0]))
            + sum(  # two spaces between columns, no word broken
                2 + max(len(word) for text in column for word in text.split()) for column in columns[1:]
            )
        )
        if least + 2 > width:  # the box has a column of its own on either side
            grid = columns
        table = RichTable(
            title=self.title,
            title_justify="left",
            title_style="bold",
            caption=self.note or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for i, heading in enumerate(grid[0]):
            table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i == 0, overflow="fold")
        for row in grid[1:]:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """A GitHub table under its title."""

        def line(cells: Sequence[Any]) -> str:
            return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

        rule = "|:--" + "|--:" * (len(self.columns) - 1) + "|"
        lines = [f"### {self.title}", "", line(self.columns), rule, *map(line, self.rows)]
        return "\n".join([*lines, "", self.note] if self.note else lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """title, note and rows as objects by column."""
        rows = [
            {
                name: cell.to_json() if isinstance(cell, Cell) else cell
                for name, cell in zip(self.columns, row, strict=True)
            }
            for row in self.rows
        ]
        return {"title": self.title, "note": self.note, "rows": rows}
