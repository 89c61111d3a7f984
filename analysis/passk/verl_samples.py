"""Samples of verl's validation dumps (`trainer.validation_data_dir`): which count, and which prompt each belongs to.

verl draws the names of prompts anew at each validation, so that two checkpoints share none: a prompt is told by its
text, and of several prompts with one text by their order. Rows that fill up a batch do not count, and of the outputs of
one rollout the last one does, as in verl's own metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..offline.verl_dumps import RowKey, is_padding, keys_of, padding_note

__all__ = ["counted_samples"]

_TEXTS = ("input", "prompt")

Places = Sequence[tuple[str, Mapping[str, Any]]]


def counted_samples(
    rows: Places, column: str, *, given: bool
) -> tuple[list[tuple[str, Mapping[str, Any], str | None]], list[str]]:
    """The samples that count, and notes.

    Args:
        rows: (place, row) of the file.
        column: what tells prompts apart.
        given: whether the user chose it, so that it is taken as it is where it does not number samples.

    Returns:
        (place, row, prompt) of each; the prompt is None where it is the value of the column.
    """
    filled = [(where, row) for where, row in rows if not is_padding(row)]
    notes = [padding_note(len(rows) - len(filled), len(rows))] if len(filled) < len(rows) else []
    keys = keys_of([row.get(column) for _, row in filled])
    if keys is None:
        return [(where, row, None) for where, row in filled], notes
    last = _last_outputs(keys)
    if len(last) < len(keys):
        notes.append(
            f"{len(keys) - len(last):,} rows are earlier outputs of a rollout that has several; the last one counts, "
            "as in verl's own metrics."
        )
    text = None if given else next((name for name in _TEXTS if all(row.get(name) for _, row in filled)), None)
    names = {key.prompt: key.prompt for key in keys}
    if text is not None:
        first = sorted(range(len(keys)), key=lambda place: (keys[place].output, keys[place].session), reverse=True)
        texts = {keys[place].prompt: str(filled[place][1][text]) for place in first}  # what the policy was asked
        names = _names_by_text({prompt: texts[prompt] for prompt in names})
        notes.append(
            f"Prompts are told apart by {text!r}: the column {column!r} is PROMPT_ROLLOUT_OUTPUT, whose first part "
            f"verl draws anew at each validation (--columns prompt={column} takes that part)."
        )
    return [(*filled[place], names[keys[place].prompt]) for place in last], notes


def _last_outputs(keys: Sequence[RowKey]) -> list[int]:
    """The place of the last output of each rollout, in the order of the rows."""
    last: dict[tuple[str, int], int] = {}
    for place, key in enumerate(keys):
        before = last.get((key.prompt, key.session))
        if before is None or keys[before].output < key.output:
            last[key.prompt, key.session] = place
    return sorted(last.values())


def _names_by_text(texts: Mapping[str, str]) -> dict[str, str]:
    """A name for each of verl's prompts: its text, with a number where another one has the same."""
    seen: dict[str, int] = {}
    names = {}
    for prompt in texts:
        text = texts[prompt]
        seen[text] = seen.get(text, 0) + 1
        names[prompt] = text if seen[text] == 1 else f"{text} ({seen[text]})"
    return names
