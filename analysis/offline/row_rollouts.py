"""The rollouts of one row: usually one; a row with a list of responses to its prompt has one for each.

Columns that are there for some rows alone (token ids, masks, advantages, old log-probs) are optional row by row; a
response needs its text or its token ids, and where rewards or groups have a column, each row needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toy_models.table_files import column_value
from toy_models.table_formats import Place

from ..common.short_repr import short_repr
from . import row_values as check
from .columns import Chosen, responses_in_a_row

__all__ = ["Rollout", "rollouts_of_row"]

_PER_RESPONSE = (
    *("response", "response_ids", "response_mask", "reward", "advantage", "old_log_probs", "sampling_log_probs"),
)
_OPTIONAL = (
    *("prompt", "response", "prompt_ids", "response_ids", "response_mask", "advantage", "old_log_probs"),
    *("sampling_log_probs", "tools", "template_arguments", "id"),
)


@short_repr
@dataclass(frozen=True)
class Rollout:
    """One response as it stands, its values checked for their type; `index` counts those that can be read."""

    index: int
    where: str
    step: int
    group: Any  # whatever tells groups apart; None without such a column
    prompt: Any  # text or chat messages; None where only token ids are there
    response: str | None  # empty where it ended at once and its end token was decoded away
    prompt_ids: tuple[int, ...] | None
    response_ids: tuple[int, ...] | None
    reward: float | None
    advantage: float | tuple[float, ...] | None
    old_log_probs: tuple[float, ...] | None
    answer: str | None  # `AcceptedAnswers` where any of several is right
    tools: Any = None  # JSON schemas for the chat template
    template_arguments: Mapping[str, Any] | None = None  # its variables
    response_mask: tuple[bool, ...] | None = None  # whether the policy sampled a token; None: all of them
    sampling_log_probs: tuple[float, ...] | None = None  # of the engine that sampled
    turns: tuple[Mapping[str, Any], ...] | None = None  # messages after the prompt, in place of a response of one
    id: str | int | None = None  # what the file calls the row
    file: str = ""  # the file that the row stands in
    row: int = 0  # the number of its line or row
    number: int | None = None  # of the response, from 1 on, where a row has several


def rollouts_of_row(
    index: int, where: Place, row: Mapping[str, Any], chosen: Chosen, *, with_answers: bool
) -> list[Rollout]:
    """The rollouts of a row, counted from `index`; ValueError names the place and the column of what cannot be used."""
    values = {role: _raw(role, where, row, chosen) for role in chosen.columns if role != "answer" or with_answers}
    count = responses_in_a_row(row, chosen.columns)
    if not count:
        return [_rollout(index, where, where, values, chosen, with_answers=with_answers)]
    values.setdefault("group", f"\0{where}")  # no column: the responses of a row are a group
    parts: list[dict[str, Any]] = [dict(values) for _ in range(count)]
    for role in _PER_RESPONSE:
        if role not in values or values[role] is None:
            continue
        entries = values[role]
        if count == 1 and not (isinstance(entries, list) and len(entries) == 1):
            entries = [entries]
        if not isinstance(entries, list) or len(entries) != count:
            got = f"{len(entries)} entries" if isinstance(entries, list) else check.shown(entries)
            raise ValueError(f"{_at(where, role, chosen)}: expected {count} entries, one for each response, got {got}")
        for part, entry in zip(parts, entries, strict=True):
            part[role] = entry
    return [
        _rollout(index + i, where, f"{where}, response {i + 1}", part, chosen, with_answers=with_answers, number=i + 1)
        for i, part in enumerate(parts)
    ]


def _at(where: str, role: str, chosen: Chosen) -> str:
    return f"{where}, {chosen.columns[role]!r}"


def _raw(role: str, where: str, row: Mapping[str, Any], chosen: Chosen) -> Any:
    """The value of a role as it stands in the row; None where an optional one is null."""
    if role == "reward" and chosen.reward is not None:
        return _sum(where, row, chosen)
    if role == "response_mask" and len(chosen.masks) > 1:
        masks = [value for name in chosen.masks if not check.is_missing(value := check.value_or_none(row, name))]
        if len({len(mask) for mask in masks}) > 1:
            raise ValueError(f"{where}: the masks {' and '.join(chosen.masks)} have different lengths")
        return [all(entries) for entries in zip(*masks, strict=True)] if masks else None
    if role in _OPTIONAL:
        value = check.value_or_none(row, chosen.columns[role])
        return None if check.is_missing(value) else value
    return column_value(row, chosen.columns[role], where)


def _sum(where: str, row: Mapping[str, Any], chosen: Chosen) -> float | list[float]:
    """Σ weight·column; a column that is null adds nothing, as in TRL, unless all are."""
    assert chosen.reward is not None
    total: Any = chosen.reward.constant
    known = not chosen.reward.weights
    for name, weight in chosen.reward.weights.items():
        value = check.value_or_none(row, name)
        if check.is_missing(value):
            continue
        known = True
        if isinstance(value, list):
            parts = [weight * check.number(entry, f"{where}, {name!r}") for entry in value]
            total = [
                a + b for a, b in zip(total if isinstance(total, list) else [total] * len(parts), parts, strict=True)
            ]
        else:
            number = weight * check.number(value, f"{where}, {name!r}")
            total = [entry + number for entry in total] if isinstance(total, list) else total + number
    if not known:
        raise ValueError(f"{where}: the columns of the reward {chosen.reward.text!r} are all null")
    return total


def _rollout(
    index: int,
    place: Place,
    where: str,
    values: Mapping[str, Any],
    chosen: Chosen,
    *,
    with_answers: bool,
    number: int | None = None,
) -> Rollout:
    def of(role: str, read: Callable[[Any, str], Any]) -> Any:
        if values.get(role) is None:
            return None
        return read(values[role], _at(where, role, chosen) if role in chosen.columns else where)

    step = of("step", check.integer)
    prompt_ids, response_ids = of("prompt_ids", check.ids), of("response_ids", check.ids)
    prompt = of("prompt", check.prompt)
    mask = of("response_mask", check.mask)
    turns = of("response", check.turns) if response_ids is None and mask is None and isinstance(prompt, list) else None
    response = (
        None
        if turns is not None
        else of(
            "response",
            lambda value, at: check.response(
                value,
                at,
                has_ids=response_ids is not None,
                has_mask=mask is not None,
                may_be_empty=chosen.layout is not None and chosen.layout.decoded,
            ),
        )
    )
    for role, text, token_ids in (("prompt", prompt, prompt_ids), ("response", turns or response, response_ids)):
        if text is None and token_ids is None:
            column = chosen.columns.get(role) or chosen.columns.get(f"{role}_ids")
            raise ValueError(f"{where}: the column {column!r} is null")
    return Rollout(
        index=index,
        where=str(where),
        step=0 if step is None else step,
        group=of("group", check.label),
        prompt=prompt,
        response=response,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        reward=None if with_answers else of("reward", check.number),
        advantage=of("advantage", check.number_or_list),
        old_log_probs=of("old_log_probs", check.floats),
        answer=of("answer", check.answer) if with_answers else None,
        tools=values.get("tools"),
        template_arguments=of("template_arguments", check.template_arguments),
        response_mask=mask,
        sampling_log_probs=of("sampling_log_probs", check.floats),
        turns=turns,
        id=of("id", lambda value, _: value if isinstance(value, int) else str(value)),
        file=place.file,
        row=place.number,
        number=number,
    )
