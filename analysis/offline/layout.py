"""What a layout is: the columns that a trainer, a server or an evaluator writes, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Layout", "Rows"]

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """What a trainer, a server or an evaluator writes.

    Attributes:
        name: What messages and summaries call it.
        key: Its short name, which `format` (--format) takes.
        source: Repository and file that write it.
        marks: Columns that it is recognised by.
        columns: Role -> column; None for a role that no column of it has.
        without: Columns that it does not have.
        unpack: Brings a row to flat columns, or to those of several rows.
        refusal: Why it is not read, and what to do.
        note: What else the summary should say of it.
        facts: What the summary should say of these rows.
        check: Refuses rows that only together show what is wrong.
        decoded: Its texts were decoded without special tokens, so that a response that ended at once is an empty text.
        ids_hint: How the trainer can be made to write token ids, where it can.
        repeats: The places of rows that stand there again, and notes on what is there of a run.
        forced: It is read by its key alone: its columns are those of another layout, which is read otherwise.
    """

    name: str
    key: str
    source: str
    marks: tuple[str, ...]
    columns: Mapping[str, str | None] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    unpack: Callable[[Mapping[str, Any]], dict[str, Any] | list[dict[str, Any]]] | None = None
    refusal: str = ""
    note: str = ""
    facts: Callable[[Rows], list[str]] | None = None
    check: Callable[[Rows], None] | None = None
    decoded: bool = False
    ids_hint: str = ""
    repeats: Callable[[Rows], tuple[frozenset[int], list[str]]] | None = None
    forced: bool = False

    def missing(self, names: set[str]) -> list[str]:
        """The columns that it is recognised by and that are not among the names."""
        return [mark for mark in self.marks if mark not in names]

    def fits(self, names: set[str]) -> bool:
        """Whether the names are those of its columns."""
        return not self.forced and not self.missing(names) and not set(self.without) & names
