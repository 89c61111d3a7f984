"""Objectives as text and as plain data: what the command prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .definition import Entry
from .entries import SECTIONS
from .parameters import Parameter

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_dict", "default_text", "families", "notes", "one_entry", "tables"]

_COUPLED = {
    "token": "",
    "response": "coupled over its response",
    "minibatch": "coupled over the minibatch",
    "pair": "coupled over a pair of responses",
}


def default_text(parameter: Parameter) -> str:
    """The default of a parameter in words: its value, "required" or "unset"."""
    return "required" if parameter.required else "unset" if parameter.default is None else str(parameter.default)


def notes(entry: Entry) -> str:
    """What an entry says besides its formula, in one line."""
    return "; ".join(text for text in (entry.note, _COUPLED[entry.coupling]) if text)


def families(word: str | None = None) -> dict[str, tuple[Entry, ...]]:
    """The families whose title contains the word, all where there is none, each with its objectives.

    Raises UsageError where there is no such family.

    >>> [entry.name for entry in families("preferences")["Preferences"]][:1]
    ['dpo']
    """
    chosen = {title: entries for title, entries in SECTIONS.items() if (word or "").casefold() in title.casefold()}
    if not chosen:
        raise UsageError(f"--family: expected part of one of {'; '.join(SECTIONS)}, got {word!r}")
    return chosen


def tables(sections: Mapping[str, Sequence[Entry]]) -> list[Table]:
    """The objectives of each family, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    out = []
    for title, entries in sections.items():
        table = Table(title=escape(title), title_justify="left", expand=True)
        for column, ratio in (("name", 4), ("w, or the vector r", 6), ("source", 6)):
            table.add_column(column, overflow="fold", ratio=ratio)
        for entry in entries:
            table.add_row(*map(escape, (entry.name, entry.weight, entry.source)))
        out.append(table)
    return out


def one_entry(entry: Entry) -> str:
    """One objective in full: formula, source, inputs, parameters, notes."""
    lines = [
        f"{entry.name}: {entry.title}",
        "",
        f"  {'w' if entry.scalar else 'r'}  {entry.weight}",
        f"  source      {entry.source}",
        f"  inputs      {', '.join(('log_probs', *entry.needs))}",
    ]
    if entry.aliases:
        lines.append(f"  also called {', '.join(entry.aliases)}")
    for library, name in (("TRL", entry.trl), ("verl", entry.verl)):
        if name:
            lines.append(f"  in {library:<8} {name}")
    if text := notes(entry):
        lines.append(f"  note        {text}")
    lines += ["", "  parameters" if entry.parameters else "  no parameters"]
    for parameter in entry.parameters:
        name, default = parameter.name.rstrip("_"), default_text(parameter)
        lines.append(f"    {name:<16} {default:<15} {parameter.range}: {parameter.doc}")
    return "\n".join(lines)


def as_dict(entry: Entry) -> dict[str, Any]:
    """One objective as plain data, ready for JSON.

    >>> as_dict(SECTIONS["Preferences"][0])["parameters"][-1]["name"]
    'beta'
    """
    return {
        "name": entry.name,
        "title": entry.title,
        "aliases": list(entry.aliases),
        "trl": entry.trl,
        "verl": entry.verl,
        "form": entry.form,
        "gradient": "weight" if entry.scalar else "vector",
        "formula": entry.weight,
        "source": entry.source,
        "inputs": ["log_probs", *entry.needs],
        "coupling": entry.coupling,
        "note": entry.note,
        "parameters": [
            {
                "name": parameter.name.rstrip("_"),
                "default": parameter.default,
                "required": parameter.required,
                "expected": parameter.range,
                "meaning": parameter.doc,
            }
            for parameter in entry.parameters
        ],
    }
