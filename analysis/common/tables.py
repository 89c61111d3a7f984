"""Tables of estimates with their intervals, for a terminal, for Markdown and as data.

All estimates of a column are shown to the same number of decimals, so that they can be compared at sight; as data they
keep every digit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Cell", "Column", "Table", "number", "value_and_error"]

_MOST_DECIMALS = 3
_UNEVEN = 2.0  # a longer arm of an interval over its shorter one, from which both ends are shown
_WORDS = {
    "π": "pi",
    "Δ": "d",
    "ρ": "rho",
    "²": "2",
    "@": " at ",
    "<": " below ",
    "≥": " from ",
    "−": " minus ",
    "%": "",
}


class HasEnds(Protocol):
    """An estimate with the ends of its interval, its kind, and why it has none."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Cell:
    """An estimate with the ends of its interval.

    Attributes:
        value: The estimate; NaN where there is none.
        low: Lower end of its interval; NaN where it has none.
        high: Upper end of its interval; NaN where it has none.
        digits: Decimals of an interval that is shown by its ends instead of by ±.
        kind: What kind of interval it is, as `docs/intervals.md` names it.
        reason: Why it has none.

    Example:
        >>> str(Cell(0.534, 0.49, 0.57)), str(Cell(12.0)), str(Cell(math.nan)), str(Cell(0.98, 0.9, 0.99, digits=2))
        ('0.53 ±.04', '12', '–', '0.98 (0.90 to 0.99)')
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    digits: int | None = field(default=None, kw_only=True)
    kind: str = field(default="", kw_only=True)
    reason: str = field(default="", kw_only=True)

    @classmethod
    def of(cls, interval: HasEnds, digits: int | None = None) -> Cell:
        """From an `analysis.evaluation.Interval`."""
        return cls(
            float(interval.estimate),
            float(interval.low),
            float(interval.high),
            digits=digits,
            kind=str(interval.kind),
            reason=interval.reason,
        )

    @property
    def half_width(self) -> float:
        """Half of the interval's width; NaN without an interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return self.text(_decimals([self]))

    def text(self, decimals: int) -> str:
        """The estimate to so many decimals, with ± half of its interval's width, or both ends of an uneven one."""
        if not math.isfinite(self.value):
            return "–"
        if self.digits is not None or self._uneven():
            decimals = decimals if self.digits is None else self.digits
            value, low, high = (f"{number:.{decimals}f}" for number in (self.value, self.low, self.high))
            return f"{value} ({low} to {high})" if math.isfinite(self.half_width) else value
        return value_and_error(self.value, self.half_width, decimals)

    def _uneven(self) -> bool:
        """Whether one end is more than twice as far from the value as the other, so that ± would mislead."""
        below, above = self.value - self.low, self.high - self.value
        wide = math.isfinite(self.half_width) and self.half_width > 1e-9 * abs(self.value)  # more than rounding
        return wide and max(below, above) > _UNEVEN * min(below, above)

    def to_json(self) -> dict[str, float | str | None]:
        """value, low and high; null for what is missing, since JSON has no NaN. `digits`, `interval` (its kind) and
        `reason` (why there is none) only where they are set."""
        known = {"value": self.value, "low": self.low, "high": self.high}
        others = {"digits": self.digits, "interval": self.kind or None, "reason": self.reason or None}
        return {name: end if math.isfinite(end) else None for name, end in known.items()} | {
            name: other for name, other in others.items() if other is not None
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """The cell that `to_json` gave."""
        value, low, high = (math.nan if data[name] is None else data[name] for name in ("value", "low", "high"))
        return cls(
            value,
            low,
            high,
            digits=data.get("digits"),
            kind=data.get("interval", ""),
            reason=data.get("reason", ""),
        )


def number(value: float) -> str:
    """A number without an interval: whole where it is whole, else with three digits at most."""
    return f"{value:.{_own_decimals(value)}f}"


def value_and_error(value: float, error: float, decimals: int | None = None) -> str:
    """`value` ± `error` as text; where there is no error the value alone.

    Args:
        value: The estimate; NaN gives a dash.
        error: Half of an interval, or a standard error; 0, or what is not finite, means that there is none.
        decimals: Decimals of both; by default as many as show the first digit of the error, two if that is a 1; at
            least one for an error below 10, at most three.

    Example:
        >>> value_and_error(18.71, 1.334), value_and_error(0.994, 0.027), value_and_error(1.0, math.nan)
        ('18.7 ±1.3', '0.99 ±.03', '1')
    """
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(error) or error == 0:
        return f"{value:.{_own_decimals(value) if decimals is None else decimals}f}"
    decimals = _error_decimals(error) if decimals is None else decimals
    return f"{value:.{decimals}f} ±{f'{error:.{decimals}f}'.removeprefix('0') if decimals else f'{error:.0f}'}"


def _own_decimals(value: float) -> int:
    return 0 if value == round(value) or abs(value) >= 100 else 2 if abs(value) < 10 else 1


def _error_decimals(error: float) -> int:
    """Decimals that show the first digit of the error, two if that is a 1; at least one below 10, at most three."""
    if not error > 0:
        return 2
    first = math.floor(math.log10(error))
    return min(_MOST_DECIMALS, max(int(error < 10), (error < 2 * 10.0**first) - first))


def _decimals(cells: Sequence[Cell]) -> int:
    """The decimals of a column: those that its smallest interval needs, else those of its numbers."""
    known = [cell for cell in cells if math.isfinite(cell.value) and cell.digits is None]
    errors = [cell.half_width for cell in known if cell.half_width > 0]
    if errors:
        return _error_decimals(min(errors))
    return max((_own_decimals(cell.value) for cell in known), default=0)


@dataclass(frozen=True)
class Column:
    """A column: the heading that people read, and the key that it has in `Table.to_json`."""

    heading: str
    key: str


def _widths(grid: Sequence[tuple[str, ...]], width: int) -> list[int | None]:
    """Widths of columns that break no word: as many as fit are on one line. All None where words must be broken."""
    columns = list(zip(*grid, strict=True))
    whole = [max(map(len, column)) for column in columns]
    least = [whole[0], *(max(len(word) for text in column for word in [*text.split(), ""]) for column in columns[1:])]
    spare = width - sum(least) - 2 * len(columns)
    if spare < 0:
        return [None] * len(columns)
    for place in sorted(range(len(columns)), key=lambda place: whole[place] - least[place]):
        wanted = whole[place] - least[place]
        if wanted <= spare:
            least[place] += wanted
            spare -= wanted
    return list(least)


def _identifier(text: str) -> str:
    """A heading as an identifier in snake case; an empty one, that of the rows, is `name`.

    >>> _identifier("Pass @8"), _identifier("H nats"), _identifier("log π: JVP R²"), _identifier("")
    ('pass_at_8', 'h_nats', 'log_pi_jvp_r2', 'name')
    """
    for sign, word in _WORDS.items():
        text = text.replace(sign, word)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "name"


@dataclass(frozen=True)
class Table:
    """Rows of estimates and texts.

    Attributes:
        title: What the table shows.
        columns: Headings, or `Column`s where the key that JSON uses is not the heading in snake case. The first
            column names the row.
        rows: As many cells or texts as there are columns.
        note: What a reader must know; printed below.
        key: Stable name of the table in JSON; the title in snake case by default.
    """

    title: str
    columns: tuple[str | Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    note: str = ""
    key: str = ""

    def _columns(self) -> list[Column]:
        columns = [
            column if isinstance(column, Column) else Column(column, _identifier(column)) for column in self.columns
        ]
        if len({column.key for column in columns}) < len(columns):
            raise ValueError(f"columns: expected a key of its own for each, got {[column.key for column in columns]}")
        return columns

    @property
    def full_note(self) -> str:
        """The note, and why numbers of the table have no interval."""
        cells = [cell for row in self.rows for cell in row if isinstance(cell, Cell) and math.isfinite(cell.value)]
        reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason and not math.isfinite(cell.half_width))
        return " ".join(
            [*([self.note] if self.note else []), *([f"No interval: {'; '.join(reasons)}."] if reasons else [])]
        )

    def texts(self) -> list[tuple[str, ...]]:
        """The headings, then every row as text; the estimates of a column have the same decimals."""
        columns = []
        for place, column in enumerate(self._columns()):
            cells = [row[place] for row in self.rows]
            decimals = _decimals([cell for cell in cells if isinstance(cell, Cell)])
            columns.append(
                [column.heading, *(cell.text(decimals) if isinstance(cell, Cell) else cell for cell in cells)]
            )
        return list(zip(*columns, strict=True))

    def to_rich(self, width: int) -> RichTable:
        """The table for a terminal of `width` columns; one too narrow for it gets it turned on its side."""
        from rich import box
        from rich.table import Table as RichTable

        grid = self.texts()
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
            caption=self.full_note or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for i, (column, chosen) in enumerate(zip(zip(*grid, strict=True), _widths(grid, width), strict=True)):
            table.add_column(
                column[0], justify="left" if i == 0 else "right", no_wrap=i == 0, overflow="fold", width=chosen
            )
        for row in grid[1:]:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """A GitHub table under its title."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        headings, *rows = self.texts()
        rule = "|:--" + "|--:" * (len(self.columns) - 1) + "|"
        lines = [f"### {self.title}", "", line(headings), rule, *map(line, rows)]
        return "\n".join([*lines, "", self.full_note] if self.full_note else lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """key, title, note, the headings by key, and rows as objects by key."""
        columns = self._columns()
        rows = [
            {
                column.key: cell.to_json() if isinstance(cell, Cell) else cell
                for column, cell in zip(columns, row, strict=True)
            }
            for row in self.rows
        ]
        return {
            "key": self.key or _identifier(self.title),
            "title": self.title,
            "note": self.note,
            "headings": {column.key: column.heading for column in columns},
            "rows": rows,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """The table that `to_json` gave."""
        columns = tuple(Column(heading, key) for key, heading in data["headings"].items())
        rows = tuple(
            tuple(Cell.from_json(cell) if isinstance(cell, dict) else cell for cell in row.values())
            for row in data["rows"]
        )
        return cls(data["title"], columns, rows, data["note"], data["key"])
