"""Objectives as text and as plain data: what the command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .definition import Entry
from .entries import ENTRIES
from .parameters import Parameter

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_dict", "default_text", "notes", "one_entry", "table"]

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


def table() -> Table:
    """All objectives, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(title="Objectives: the weight w of a token, ∂L/∂z = −w·(e_y − π) + r", title_justify="left")
    for column, ratio in (("name", 4), ("w, or the vector r", 6), ("source", 6)):
        out.add_column(column, overflow="fold", ratio=ratio)
    for entry in ENTRIES.values():
        out.add_row(*map(escape, (entry.name, entry.weight, entry.source)))
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
    if text := notes(entry):
        lines.append(f"  note        {text}")
    lines += ["", "  parameters" if entry.parameters else "  no parameters"]
    for parameter in entry.parameters:
        name, default = parameter.name.rstrip("_"), default_text(parameter)
        lines.append(f"    {name:<16} {default:<15} {parameter.range}: {parameter.doc}")
    return "\n".join(lines)


def as_dict(entry: Entry) -> dict[str, Any]:
    """One objective as plain data, ready for JSON.

    >>> as_dict(ENTRIES["sapo"])["parameters"][-1]["name"]
    'tau_neg'
    """
    return {
        "name": entry.name,
        "title": entry.title,
        "aliases": list(entry.aliases),
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
