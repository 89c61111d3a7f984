"""Columns of token ids under names that are not those of the roles: nested ones, and the names of other trainers.

Ids are what was trained on, and text is what they read as, so a column of ids is preferred wherever there is one. A
column counts as ids where its name says prompt or response and its values are lists of whole numbers from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .row_values import value_or_none

__all__ = ["holds_ids", "ids_elsewhere"]

# role -> the last part of a column's name, the better first
_NAMES = {
    "prompt": (
        *("prompt_ids", "prompt_token_ids", "input_token_ids", "prompt_tokens", "prompts", "prompt", "input"),
        "prompts_ids",
    ),
    "response": (
        *("response_ids", "completion_ids", "response_token_ids", "completion_token_ids", "output_ids"),
        *("output_token_ids", "generated_ids", "generated_token_ids", "response_tokens", "completion_tokens"),
        *("output_tokens", "responses", "response", "completion", "completions", "output", "responses_ids"),
    ),
}


def ids_elsewhere(role: str, filled: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A column of ids of prompts or responses that has another name than the known ones; None where there is none."""
    order = {name: place for place, name in enumerate(_NAMES[role])}
    named = [name for name in filled if name.rpartition(".")[2] in order]
    for name in sorted(named, key=lambda name: (order[name.rpartition(".")[2]], name.count("."))):
        if holds_ids(rows, name):
            return name
    return None


def holds_ids(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column holds lists of whole numbers from 0 wherever it holds anything."""
    some = False
    for row in rows:
        value = value_or_none(row, name)
        if value is None:
            continue
        if not (isinstance(value, list) and value and all(type(i) is int and i >= 0 for i in value)):
            return False
        some = True
    return some
