"""Values of a row by what they are: numbers, whole numbers, token ids, labels, texts, masks; each fault by its place.

Numbers may come as text (CSV) and whole numbers as floats (data frames with missing values); truth values are no
numbers but in rewards and masks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from toy_models.table_files import column_value
from toy_models.table_formats import CsvText
from toy_models.verifiers import accepted_answer

from .dialogues import is_own

__all__ = [
    "answer",
    "floats",
    "ids",
    "integer",
    "is_missing",
    "label",
    "mask",
    "number",
    "number_or_list",
    "response",
    "turns",
    "value_or_none",
]

_FLOAT32_MAX = 3.4e38
_SHOWN = 60  # characters of a value in a message
_REASONING = ("reasoning_content", "reasoning", "thinking")


def is_missing(value: Any) -> bool:
    """Whether a value of an optional column is null; NaN is what data frames make of it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def value_or_none(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column in a row; None where it is missing or null."""
    try:
        return column_value(row, name, "")
    except ValueError:
        return None


def number(value: Any, at: str) -> float:
    """A finite number, or a truth value as 0 or 1."""
    value = _read(value)
    if not isinstance(value, bool | int | float):
        entries = f"; choose one of its entries ({', '.join(value)})" if isinstance(value, Mapping) else ""
        raise ValueError(f"{at}: expected a number or true or false, got {shown(value)}{entries}")
    if not abs(value) < _FLOAT32_MAX:
        raise ValueError(f"{at}: expected a finite number, got {value}")
    return float(value)


def number_or_list(value: Any, at: str) -> float | tuple[float, ...]:
    """A number for the response, or one for each of its tokens."""
    value = _read(value)
    return floats(value, at) if isinstance(value, list) else number(value, at)


def integer(value: Any, at: str) -> int:
    """A whole number from 0, also written 3.0."""
    value = _whole(_read(value))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{at}: expected a whole number from 0, got {shown(value)}")
    return value


def label(value: Any, at: str) -> Any:
    """What tells groups apart: a number or a text."""
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{at}: expected a number or a string, the same in all rows of a group, got {shown(value)}")
    return str(checked_text(value, at)) if isinstance(value, str) else value


def ids(value: Any, at: str) -> tuple[int, ...]:
    """Token ids, at least one."""
    value = _read(value)
    if type(value) is list and value and {int}.issuperset(map(type, value)) and min(value) >= 0:
        return tuple(value)
    whole = [_whole(i) for i in value] if isinstance(value, list) else None
    if whole is None or not all(isinstance(i, int) and not isinstance(i, bool) for i in whole):
        raise ValueError(f"{at}: expected a list of token ids, got {shown(value)}")
    if not whole:
        raise ValueError(f"{at}: expected at least one token id, got none")
    if min(whole) < 0:
        raise ValueError(
            f"{at}: expected token ids from 0 on, got {min(whole)}; labels have −100 where nothing is trained on: give "
            "the ids themselves, and what is trained on as a mask"
        )
    return tuple(whole)


def floats(value: Any, at: str) -> tuple[float, ...]:
    """Finite numbers, one for each token."""
    value = _read(value)
    kinds = set(map(type, value)) if isinstance(value, list) else {type(None)}
    if not kinds <= {int, float, bool} or not all(map(math.isfinite, value)):
        raise ValueError(f"{at}: expected a list of finite numbers, one for each response token, got {shown(value)}")
    return tuple(map(float, value))


def mask(value: Any, at: str) -> tuple[bool, ...]:
    """1 or true for a token of the policy, 0 or false for any other."""
    value = _read(value)
    if not isinstance(value, list) or not all(isinstance(x, bool | int | float) and x in (0, 1) for x in value):
        raise ValueError(f"{at}: expected a list of 0 and 1, 1 for each token of the policy, got {shown(value)}")
    return tuple(bool(x) for x in value)


def response(value: Any, at: str, *, has_ids: bool, has_mask: bool = False, may_be_empty: bool = False) -> str | None:
    """A text, or chat messages of which there is one, the assistant's; None where only token ids can tell the text.

    `may_be_empty` where special tokens were decoded away, so that nothing is left of a response that ended at once.
    """
    if isinstance(value, CsvText) and value[:1] == "[" and isinstance(read := value.value(), list):
        value = read
    reasoning = False
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        if len(value) > 1:
            others = sorted({str(turn.get("role")) for turn in value} - {"assistant"})
            if has_ids and others and not has_mask:
                raise ValueError(
                    f"{at}: the response has turns of {' and '.join(others)}, and no column says which of its tokens "
                    "the policy sampled; add one (response_mask: 1 for those, 0 for the others)"
                )
            if has_ids:
                return None
            raise ValueError(
                f"{at}: expected a string or one message of the assistant, got {len(value)} messages; give a prompt "
                "of messages as well, or the token ids of such a response (response_ids) and which of them the policy "
                "sampled (response_mask)"
            )
        value = value[0]
    if isinstance(value, Mapping):
        if value.get("role", "assistant") not in ("assistant", "model"):
            raise ValueError(f"{at}: expected a message of the assistant, got one of {shown(value['role'])}")
        reasoning = any(value.get(name) for name in _REASONING) or bool(value.get("tool_calls"))
        value = _content(value.get("content"))
    if reasoning:
        if has_ids:
            return None
        raise ValueError(
            f"{at}: the message keeps its reasoning or its calls of tools apart from its content, so that the text "
            "that the policy wrote is not whole; give the token ids of such a response (response_ids)"
        )
    if not isinstance(value, str):
        if has_ids and is_missing(value):
            return None
        raise ValueError(f"{at}: expected a string or one message of the assistant, got {shown(value)}")
    if not value:
        if has_ids:
            return None
        if may_be_empty:
            return ""
        raise ValueError(f"{at}: the response is empty")
    return str(checked_text(value, at))


def turns(value: Any, at: str) -> tuple[Mapping[str, Any], ...] | None:
    """The messages of a response of several turns, of which the first is the policy's; None for one turn or a text."""
    if isinstance(value, CsvText) and value[:1] == "[" and isinstance(read := value.value(), list):
        value = read
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(turn, Mapping) for turn in value):
        return None
    if not is_own(value[0]):
        raise ValueError(
            f"{at}: expected a response that begins with a message of the assistant, got one of "
            f"{shown(value[0].get('role'))}; messages before it belong to the prompt"
        )
    last = max(place for place, turn in enumerate(value) if is_own(turn))
    return tuple(checked_text(value[: last + 1], at)) if last else None


def _content(content: Any) -> Any:
    """The text of a message, whose content may be a list of parts."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(content) else content


def answer(value: Any, at: str) -> str:
    """A reference answer as text, or several of which any is right (`toy_models.verifiers.accepted_answer`)."""
    if value == []:
        raise ValueError(f"{at}: expected an answer or a list of accepted answers, got an empty list")
    checked_text(value, at)
    return accepted_answer(value)


def checked_text(value: Any, at: str) -> Any:
    """The value, whose texts are Unicode throughout; half of a surrogate pair is no character and cannot be stored."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(value[error.start]):04X}"
            raise ValueError(
                f"{at}: the text has half of a surrogate pair ({half}) at character {error.start}, which is not text"
            ) from None
    elif isinstance(value, list):
        for item in value:
            checked_text(item, at)
    elif isinstance(value, Mapping):
        for item in value.values():
            checked_text(item, at)
    return value


def template_arguments(value: Any, at: str) -> Mapping[str, Any]:
    """Variables of a chat template, as an object or as its JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"{at}: expected the variables of the chat template as an object, got {shown(value)}"
            ) from error
    if not isinstance(value, Mapping):
        raise ValueError(f"{at}: expected the variables of the chat template as an object, got {shown(value)}")
    return value


def prompt(value: Any, at: str) -> Any:
    """A text or chat messages, as they are; what they must look like is checked where they are rendered."""
    if isinstance(value, CsvText):
        read = value.value() if value[:1] == "[" else None
        value = read if isinstance(read, list) else str(value)
    return checked_text(value, at)


def shown(value: Any) -> str:
    """A value in a message, cut to a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


def _read(value: Any) -> Any:
    return value.value() if isinstance(value, CsvText) else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
