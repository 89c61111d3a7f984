"""Which column of a file holds what: prompts, responses, rewards, under the names that rollout files give them.

The layouts of public trainers and evaluators are known (`layouts`); of any other file columns are found by name
(`COLUMNS`). A name of one's own is mapped: {"prompt": "question"}, on the command line --columns prompt=question;
{"group": "-"} leaves a column of the file out. Rewards may be a sum of columns: {"reward": "2*accuracy + format"}.

A file with several columns of numbers that may be the reward and with an advantage (TRL's table with several reward
functions) is read without rewards: the advantage is what training used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from toy_models.messages import nearest
from toy_models.spooled import Mapped, Spooled
from toy_models.table_files import column_names

from ..errors import UsageError
from .id_columns import ids_elsewhere
from .layout import Layout
from .layouts import closest, layout_named, recognise
from .reward_columns import check_rivals, numbers_of, same_values, trl_reward
from .rewards import RewardSum, parse_sum
from .row_values import is_missing, value_or_none
from .unpacking import PART
from .verl_dumps import UID, keys_of, padding_rows, session_groups

__all__ = ["COLUMNS", "Chosen", "find_columns", "parse_mapping", "responses_in_a_row"]

# role -> known names, the better first where several may be there
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "input"),
    "response": ("response", "completion", "output"),
    "reward": ("reward", "score", "rewards", "scores"),
    "group": (
        *("group", "uid", "group_id", "group_index", "prompt_uid", "prompt_idx", "example_id", "problem_id"),
        *("question_id", "doc_id", "qid", "prompt_id"),
    ),
    "advantage": ("advantage", "advantages"),
    "old_log_probs": (
        "old_log_probs",
        "old_per_token_logps",
        "rollout_log_probs",
        "sampling_per_token_logps",
        "logprobs",
    ),
    "sampling_log_probs": (
        *("sampling_log_probs", "sampling_per_token_logps", "rollout_log_probs", "inference_logprobs"),
        "generation_logprobs",
    ),
    "prompt_ids": ("prompt_ids", "prompt_token_ids"),
    "response_ids": ("response_ids", "completion_ids", "response_token_ids", "completion_token_ids"),
    "response_mask": (
        *("response_mask", "loss_mask", "completion_mask", "tool_mask", "env_mask", "action_mask", "assistant_mask"),
        "assistant_masks",
    ),
    "answer": ("answer", "gts", "ground_truth"),
    "step": ("step", "global_step"),
    "tools": ("tools",),
    "template_arguments": ("chat_template_kwargs",),
    "id": ("id", "rollout_id", "sample_id", "trace_id", "request_id", "custom_id"),
}
NONE = "-"  # in place of a column: the role has none
_EITHER = (("prompt", "prompt_ids"), ("response", "response_ids"))
_RANKED = ("old_log_probs", "sampling_log_probs", "group", "answer", "id")  # the first of several known names is taken
_SHOWN = 30  # columns in a message
_SOUND_LIKE = {
    "prompt": ("question", "problem", "query", "instruction", "prompt_text", "inputs", "prompts", "text"),
    "response": (
        "generation",
        "generated_text",
        "solution",
        "prediction",
        "responses",
        "completions",
        "answer",
        "pred",
    ),
}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chosen:
    """Which columns were chosen.

    Attributes:
        columns: Role -> column, or an expression of columns, for the roles that the rows have something for.
        rows: The rows, brought to flat columns where their layout is nested; an exception for a row that cannot be.
        places: Of each of them, which row of the source it comes from, and, where that holds several, which part of it.
        masks: The columns that mark the policy's tokens; a token counts where each says so.
        reward: The sum that rewards are, None where they are a column.
        layout: The layout that was recognised.
        numbers: Columns of numbers that may be rewards, where none was chosen.
        notes: What a reader should know of the choice.
        left_out: Rows of the source that repeat others, or fill up a batch, and are not read.
        inexact: Why token ids may not be those that were trained on; empty where nothing is known against them.
    """

    columns: dict[str, str]
    rows: Sequence[Mapping[str, Any] | ValueError]
    places: Sequence[tuple[int, str]]
    masks: tuple[str, ...] = ()
    reward: RewardSum | None = None
    layout: Layout | None = None
    numbers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: frozenset[int] = frozenset()
    inexact: str = ""


def parse_mapping(text: str) -> dict[str, str]:
    """Columns as the command line writes them: role=name, separated by commas.

    >>> parse_mapping("prompt=question,reward=scores.math")
    {'prompt': 'question', 'reward': 'scores.math'}
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        role, sign, name = part.partition("=")
        if not sign or not role.strip() or not name.strip():
            raise UsageError(f"columns: expected ROLE=NAME, such as prompt=question, got {part!r}")
        found[role.strip()] = name.strip()
    return found


def find_columns(
    rows: Rows, given: Mapping[str, Any], source: str, format: str | None = None, *, with_rewards: bool = True
) -> Chosen:
    """The columns of the rows by role; `given` goes before the layout, and this before the known names.

    `format` is the key of a layout; unset, the columns tell which it is. Of several columns that may be the reward
    nothing is said without `with_rewards`. Raises UsageError for an unknown role, a
    column that no row has, two columns that may be meant, a layout that is not read, and where prompts or responses are
    missing; messages list the columns found.
    """
    names = _names(rows)
    wanted = {role: _as_text(value) for role, value in given.items()}
    for role in wanted:
        if role not in COLUMNS:
            raise UsageError(f"columns: unknown role {role!r}; {nearest(role, COLUMNS)}")
    layout = recognise(names, wanted) if format is None else layout_named(format, names, source)
    if layout is not None and layout.check is not None:
        layout.check(rows)
    flat, places = _flat(rows, layout)
    whole = _without_errors(flat, layout)
    facts = [] if layout is None or layout.facts is None else layout.facts(_readable(rows, flat, places))
    if not whole:
        return Chosen({}, flat, places, layout=layout, notes=facts)
    names = _names(whole) if layout is not None and layout.unpack is not None else names
    filled = _filled(whole, names)
    shown = (", ".join(names[:_SHOWN]) or "no columns") + (" …" if len(names) > _SHOWN else "")
    reward = _check_given(wanted, names, shown, source)
    notes = (
        []
        if layout is None
        else [
            f"The file is read as the {layout.name}" + (f": {layout.note}." if layout.note else "."),
            *facts,
        ]
    )
    by_layout = {} if layout is None else dict(layout.columns)
    found: dict[str, str | None] = {}
    nested = layout is not None and layout.unpack is not None
    for role in COLUMNS:
        if role in wanted:
            found[role] = None if wanted[role] == NONE else wanted[role]
        elif role in by_layout:
            column = by_layout[role]
            found[role] = column if column in filled else None
        else:
            found[role] = _known(role, filled, whole, source)
    if with_rewards and "reward" not in wanted and found["reward"] is not None and not nested:
        rivals = [name for name in COLUMNS["reward"] if name in filled and name != found["reward"]]
        notes += [said] if (said := check_rivals(whole, found["reward"], rivals, source)) else []
    if not nested:
        notes += _other_ids(found, wanted, filled, whole)
    numbers: tuple[str, ...] = ()
    empty = [name for name in COLUMNS["reward"] if name in names and name not in filled]
    if found["reward"] is None and "reward" not in wanted:
        notes += [f"The column {name!r} is null throughout, so that no rewards are read from it." for name in empty]
        taken = set(found.values()) | {name for names_of_role in COLUMNS.values() for name in names_of_role}
        numbers = numbers_of(whole, filled, taken)
        found["reward"], note = trl_reward(filled, found["advantage"], numbers, source)
        notes += [note] if note else []
        numbers = () if found["reward"] else numbers
    _check_either(found, names, shown, source)
    masks = _masks(wanted, filled) if "response_mask" not in by_layout else (found["response_mask"],)
    masks = tuple(name for name in masks if name) if found["response_mask"] else ()
    if len(masks) > 1:
        found["response_mask"] = " * ".join(masks)
    if "group" not in wanted and by_layout.get("group") is None:
        flat, found["group"], note = _group(flat, whole, found)
        notes += [note] if note else []
    columns = {role: name for role, name in found.items() if name is not None}
    left_out, said_of_padding = padding_rows(rows) if UID in names else (frozenset[int](), [])
    notes += said_of_padding
    if layout is not None and layout.repeats is not None:
        repeated, said_of_repeats = layout.repeats(rows)
        left_out, notes = left_out | repeated, notes + said_of_repeats
    inexact = "" if layout is None else _inexact(layout, columns)
    return Chosen(columns, flat, places, masks, reward, layout, numbers, notes, left_out, inexact)


def _other_ids(found: dict[str, str | None], wanted: Mapping[str, str], filled: Sequence[str], rows: Rows) -> list[str]:
    """Takes columns of token ids that have none of the known names into `found`; what to say of them."""
    notes = []
    for role, ids in _EITHER:
        if found[ids] is not None or {role, ids} & wanted.keys():
            continue
        column = ids_elsewhere(role, filled, rows)
        if column is None:
            continue
        found[ids] = column
        if found[role] == column:
            found[role] = None
        notes.append(
            f"The column {column!r} holds token ids of {role}s, which are traced as they are"
            + (f"; --columns {ids}=- reads the text of {found[role]!r} instead." if found[role] else ".")
        )
    return notes


def _inexact(layout: Layout, columns: Mapping[str, str]) -> str:
    """Why the token ids that are traced may not be those that were trained on; empty where they are."""
    texts = [role for role in ("prompt", "response") if f"{role}_ids" not in columns]
    if not layout.decoded or not texts:
        return ""
    exact = [f"{role}s from {columns[f'{role}_ids']!r}" for role in ("prompt", "response") if role not in texts]
    hint = f" To have them written, {layout.ids_hint}." if layout.ids_hint and "response" in texts else ""
    return (
        f"Inexact token ids: those of {' and '.join(f'{role}s' for role in texts)} come from tokenising again a text "
        "without special tokens, and can differ from those that were trained on. A text may be split into other "
        f"tokens, and what was decoded away is missing.{hint}" + (f" Exact are {' and '.join(exact)}." if exact else "")
    )


def _as_text(value: Any) -> str:
    """A column, or a mapping of columns to weights as their sum."""
    if isinstance(value, Mapping):
        return " + ".join(f"{weight}*{name}" for name, weight in value.items())
    return str(value)


def _names(rows: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (*row, *column_names(row))))


def _filled(rows: Rows, names: Sequence[str]) -> list[str]:
    """The columns that are not null throughout."""
    open_names, filled = dict.fromkeys(names), set()
    for row in rows:
        for name in [name for name in open_names if not is_missing(value_or_none(row, name))]:
            filled.add(name)
            del open_names[name]
        if not open_names:
            break
    return [name for name in names if name in filled]


def _flat(
    rows: Rows, layout: Layout | None
) -> tuple[Sequence[Mapping[str, Any] | ValueError], Sequence[tuple[int, str]]]:
    """The rows with flat columns, and where each comes from; a nested row may hold several, or none."""
    if layout is None or layout.unpack is None:
        return rows, Mapped(range(len(rows)), lambda place: (place, ""))
    flat = Spooled[Mapping[str, Any] | ValueError]()
    places = Spooled[tuple[int, str]]()
    for place, row in enumerate(rows):
        parts: Sequence[Mapping[str, Any] | ValueError]
        try:
            unpacked = layout.unpack(row)
            parts = [{**row, **part} for part in (unpacked if isinstance(unpacked, list) else [unpacked])]
        except ValueError as error:
            parts = [ValueError(str(error))]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            parts = [ValueError(f"it is not a row of the {layout.name} ({type(error).__name__}: {error})")]
        places.extend(
            (place, f", {part.pop(PART)}" if isinstance(part, dict) and PART in part else "") for part in parts
        )
        flat.extend(parts)
    return flat, places


def _without_errors(flat: Sequence[Mapping[str, Any] | ValueError], layout: Layout | None) -> Rows:
    """The rows that could be brought to flat columns: all of them where nothing was unpacked."""
    if layout is None or layout.unpack is None:
        return cast(Rows, flat)
    return Spooled(row for row in flat if not isinstance(row, ValueError))


def _readable(rows: Rows, flat: Sequence[Mapping[str, Any] | ValueError], places: Sequence[tuple[int, str]]) -> Rows:
    """The rows that could be brought to flat columns."""
    broken = {place for row, (place, _) in zip(flat, places, strict=True) if isinstance(row, ValueError)}
    return Spooled(row for place, row in enumerate(rows) if place not in broken) if broken else rows


def _check_given(wanted: Mapping[str, str], names: Sequence[str], shown: str, source: str) -> RewardSum | None:
    """Every column that was named is there; the sum that rewards are, where it is one."""
    reward = parse_sum(wanted["reward"], names) if wanted.get("reward", NONE) != NONE else None
    for role, name in wanted.items():
        needed = [name] if role != "reward" or reward is None else list(reward.weights)
        for column in needed:
            if column not in names and column != NONE:
                close = nearest(column, names)
                hint = f"; {close}" if close.startswith("did you mean") else ""
                raise UsageError(f"columns: {source} has no column {column!r} for {role}; it has {shown}{hint}")
    return reward


def _known(role: str, filled: Sequence[str], rows: Rows, source: str) -> str | None:
    there = [name for name in COLUMNS[role] if name in filled]
    ranked = role in (*_RANKED, "response_mask", "reward")  # of rewards the caller looks at the others
    if len(there) > 1 and not ranked and not same_values(rows, there):
        raise UsageError(
            f"columns: {source} has {' and '.join(there)}, either of which may be the {role}; choose one with "
            f"columns {role}={there[0]}"
        )
    return there[0] if there else None


def _masks(wanted: Mapping[str, str], filled: Sequence[str]) -> tuple[str, ...]:
    if "response_mask" in wanted:
        return (wanted["response_mask"],)
    return tuple(name for name in COLUMNS["response_mask"] if name in filled)


def _check_either(found: Mapping[str, str | None], names: Sequence[str], shown: str, source: str) -> None:
    for role, ids in _EITHER:
        if found[role] or found[ids]:
            continue
        known = ", ".join(name for either in (role, ids) for name in COLUMNS[either])
        close = [name for name in _SOUND_LIKE[role] if name in names and name not in found.values()]
        null = [name for name in known.split(", ") if name in names]
        null_said = f" ({', '.join(null)} is null throughout)" if null else ""
        perhaps = f", perhaps {role}={close[0]}" if close else ""
        raise UsageError(
            f"columns: {source} has no column for the {role} (known names: {known}){null_said}; it has "
            f"{shown}; map one with columns {role}=NAME{perhaps}. By its columns {closest(names)}; format (--format) "
            "forces one, docs/how_to/trace_rollouts.md lists them"
        )


def _group(
    flat: Sequence[Mapping[str, Any] | ValueError], whole: Rows, found: Mapping[str, str | None]
) -> tuple[Sequence[Mapping[str, Any] | ValueError], str | None, str]:
    """Rows, the column of groups and what to say, where a column was found that has another value in each row although
    prompts repeat: verl's keys hold that of the prompt; any other such column names rows, not groups."""
    rows, column = flat, found["group"]
    if column in (None, "group") or any(responses_in_a_row(row, found) for row in whole[:1]):
        return rows, column, ""
    labels = [value_or_none(row, column) for row in whole]
    prompts = {repr(value_or_none(row, found["prompt"] or found["prompt_ids"] or "")) for row in whole}
    if len(set(map(repr, labels))) < len(labels) or len(prompts) == len(labels):
        return rows, column, ""
    keys = keys_of(labels)
    if keys is None:
        return (
            rows,
            None,
            f"The column {column!r} differs from row to row and names no groups: responses to the same prompt in a "
            "step are a group. Name the column of groups with --columns group=NAME.",
        )
    groups, note = session_groups(
        keys, [value_or_none(row, found["prompt"] or found["prompt_ids"] or "") for row in whole]
    )
    labelled = iter(groups)
    rows = Spooled(row if isinstance(row, ValueError) else {**row, column: next(labelled)} for row in flat)
    return (
        rows,
        column,
        f"The column {column!r} is PROMPT_ROLLOUT_OUTPUT, as verl writes it; its first part names the group.{note}",
    )


def responses_in_a_row(row: Mapping[str, Any], columns: Mapping[str, str | None]) -> int:
    """How many responses a row has; 0 where it has one as it stands rather than a list of them."""
    text = value_or_none(row, name) if (name := columns.get("response")) else None
    if isinstance(text, list) and text and not isinstance(text[0], Mapping):
        return len(text)
    ids = value_or_none(row, name) if (name := columns.get("response_ids")) else None
    return len(ids) if is_missing(text) and isinstance(ids, list) and ids and isinstance(ids[0], list) else 0
