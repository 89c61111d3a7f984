"""One run's configuration: reading single values by the table of fields, and the plain-data form.

`FIELDS` is the flat view of `fields.RunConfig` ("update.epochs" → type, range, default). A field whose value is a
table, such as task.config, takes whatever entries it is given, each under a path of its own ("task.config.size"). A
configuration travels as plain JSON data (`config_to_dict`, `config_from_dict`) into run.json and to the process that
trains it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toy_models.messages import nearest

from ..errors import UsageError
from .field_helpers import Table
from .fields import RunConfig

__all__ = [
    "FIELDS",
    "UNSET",
    "Field",
    "compare",
    "config_from_dict",
    "config_to_dict",
    "field_of",
    "flatten",
    "read_value",
    "show",
    "unknown_field",
]

UNSET = "unset"
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Table: "a table"}


@dataclass(frozen=True)
class Field:
    """A field of a recipe: `kind` is the type of its value, or of its elements where `size` is not None."""

    path: str
    kind: type
    default: Any
    doc: str
    optional: bool = False
    size: int | None = None  # of a list; 0 for any length from one
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    aliases: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def range(self) -> str:
        """The values that are allowed, in words; empty where the type says all."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        bounds = [(self.low, "≥"), (self.above, ">"), (self.high, "≤"), (self.below, "<")]
        return ", ".join(f"{sign} {bound:g}" for bound, sign in bounds if bound is not None)

    @property
    def expected(self) -> str:
        """What a value must be, as error messages say it.

        >>> FIELDS["update.epochs"].expected
        'an integer ≥ 1'
        """
        if self.choices:
            return f"one of {self.range}"
        if self.size is None:
            return f"{_KINDS[self.kind]} {self.range}".rstrip()
        count = f"{self.size} " if self.size else "a list of "
        return f"{count}{'strings' if self.kind is str else f'numbers, each {self.range}'}"


def _fields() -> dict[str, Field]:
    fields: dict[str, Field] = {}

    def add(cls: type, prefix: str) -> None:
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            hint = hints[item.name]
            if dataclasses.is_dataclass(hint):
                add(typing.cast(type, hint), f"{item.name}.")
                continue
            optional = isinstance(hint, types.UnionType)
            if optional:
                (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
            size = None
            if typing.get_origin(hint) is tuple:
                arguments = typing.get_args(hint)
                hint, size = arguments[0], 0 if arguments[1] is Ellipsis else len(arguments)
            meta: dict[str, Any] = {
                name: value for name, value in item.metadata.items() if name not in ("key", "later")
            }
            path = prefix + item.metadata.get("key", item.name)
            fields[path] = Field(path, hint, item.default, optional=optional, size=size, **meta)

    add(RunConfig, "")
    return fields


FIELDS: dict[str, Field] = _fields()
_OPEN = tuple(path for path, field in FIELDS.items() if field.kind is Table)
_TABLES = dict.fromkeys(path.rpartition(".")[0] for path in FIELDS if "." in path)


def show(value: Any) -> str:
    """A value as it is written in TOML, close enough for messages and labels.

    >>> show(True), show("psr"), show(0.1), show((1.0, 0.6))
    ('true', '"psr"', '0.1', '[1.0, 0.6]')
    """
    if value is None:
        return UNSET
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return repr(value)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables to dotted paths.

    >>> flatten({"steps": 4, "update": {"epochs": 2}, "optimizer.lr": 0.1})
    {'steps': 4, 'update.epochs': 2, 'optimizer.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def field_of(path: str) -> Field | None:
    """The field of a path, which for an entry of a table is the table; None where there is none.

    >>> field_of("update.epochs").path, field_of("task.config.min_value").path, field_of("task.epochs")
    ('update.epochs', 'task.config', None)
    """
    table = next((table for table in _OPEN if path.startswith(f"{table}.")), path)
    return FIELDS.get(table)


def unknown_field(path: str) -> str:
    """The message for a path that is not a field, with the nearest fields.

    >>> unknown_field("update.epoch")
    'update.epoch: unknown field (did you mean epochs?)'
    >>> unknown_field("task.group_size")
    'task.group_size: unknown field (did you mean rollout.group_size?)'
    >>> unknown_field("updates.epochs")
    'updates.epochs: unknown table (did you mean update?)'
    """
    table, _, name = path.rpartition(".")
    same_name = [known for known in FIELDS if known.rpartition(".")[2] == name]
    if table and table not in _TABLES:
        return f"{path}: unknown table ({nearest(table, _TABLES)})"
    if same_name:
        return f"{path}: unknown field (did you mean {' or '.join(same_name)}?)"
    siblings = [known.rpartition(".")[2] for known in FIELDS if known.rpartition(".")[0] == table]
    hint = nearest(name, siblings if table else [*siblings, *_TABLES], most=1)
    return f"{path}: unknown field ({hint}{f' in [{table}]' if table and hint.startswith('known') else ''})"


def read_value(path: str, value: Any) -> Any:
    """The value of a field in its declared type: integers become floats where a float is due, lists become tuples.

    `"unset"` gives the default.

    Raises:
        UsageError: an unknown field, or a value of another type or outside the range.
    """
    field = field_of(path)
    if field is None:
        raise UsageError(
            f"{path}: expected a field, got a table; write {path}.<field>" if path in _TABLES else unknown_field(path)
        )
    if path != field.path:
        return _entry(path, value)
    if value == UNSET or (value is None and field.optional):
        return field.default
    if field.size is None:
        return _scalar(field, value, value)
    if not isinstance(value, list | tuple) or len(value) == 0 or field.size not in (0, len(value)):
        raise _wrong(field, value)
    return tuple(_scalar(field, item, value) for item in value)


def _entry(path: str, value: Any) -> Any:
    """An entry of a table of any entries: what TOML and JSON have in common, lists as tuples."""
    if isinstance(value, list | tuple):
        return tuple(_entry(path, item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{path}: expected a finite number, got {show(value)}")
    if not isinstance(value, bool | int | float | str):
        raise UsageError(f"{path}: expected true or false, a number, a string or a list of them, got {show(value)}")
    return value


def _scalar(field: Field, value: Any, whole: Any) -> Any:
    if field.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, str):
        value = field.aliases.get(value, value)
    if type(value) is not field.kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(field, whole)
    if field.choices and value not in field.choices:
        known = [*field.choices, *field.aliases]
        raise _wrong(field, whole, hint=nearest(value, known) if isinstance(value, str) else "")
    outside = isinstance(value, int | float) and (
        (field.low is not None and value < field.low)
        or (field.high is not None and value > field.high)
        or (field.above is not None and value <= field.above)
        or (field.below is not None and value >= field.below)
    )
    if outside:
        raise _wrong(field, whole)
    return value


def _wrong(field: Field, value: Any, hint: str = "") -> UsageError:
    suffix = f" ({hint})" if hint.startswith("did you mean") else ""
    return UsageError(f"{field.path}: expected {field.expected}, got {show(value)}{suffix}")


def config_from_dict(data: Mapping[str, Any]) -> RunConfig:
    """The configuration from nested or dotted plain data; missing fields have their defaults.

    Args:
        data: nested tables, or values by dotted path. Which values go together is not checked here.

    Returns:
        The configuration.

    Raises:
        UsageError: an unknown field, or a value of another type or outside the range.

    Example:
        >>> config_from_dict({"steps": 4, "update.epochs": 2}).update.epochs
        2
    """
    values = {path: read_value(path, value) for path, value in flatten(data).items()}

    def build(cls: Any, prefix: str) -> Any:
        arguments = {}
        for item in dataclasses.fields(cls):
            path = prefix + item.metadata.get("key", item.name)
            if path in _OPEN:
                arguments[item.name] = _table(path, values)
            elif path in values:
                arguments[item.name] = values[path]
            elif not item.metadata:
                arguments[item.name] = build(item.default_factory, f"{item.name}.")
        return cls(**arguments)

    config: RunConfig = build(RunConfig, "")
    return config


def _table(path: str, values: Mapping[str, Any]) -> Table:
    """The entries below a path as nested tables."""
    table = Table()
    for entry, value in values.items():
        if entry.startswith(f"{path}.") and value != UNSET:
            *parents, name = entry.removeprefix(f"{path}.").split(".")
            place: dict[str, Any] = table
            for parent in parents:
                place = place.setdefault(parent, Table())
            place[name] = value
    return table


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as nested plain data with every field present (None where unset), ready for JSON.

    Args:
        config: a run's configuration.

    Returns:
        Plain data that `config_from_dict` reads back.

    Example:
        >>> config_to_dict(RunConfig())["objective"]["lambda"] is None
        True
        >>> config_from_dict(config_to_dict(RunConfig())) == RunConfig()
        True
    """

    def plain(part: Any) -> Any:
        if dataclasses.is_dataclass(part):
            return {
                item.metadata.get("key", item.name): plain(getattr(part, item.name))
                for item in dataclasses.fields(part)
            }
        if isinstance(part, Table):
            return {name: plain(value) for name, value in part.items()}
        return [plain(item) for item in part] if isinstance(part, tuple) else part

    result: dict[str, Any] = plain(config)
    return result


def compare(configs: Sequence[RunConfig]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The fields that all runs share, and for each run those in which any two differ: path -> value as in TOML.

    >>> shared, varied = compare([RunConfig(seed=0), RunConfig(seed=1)])
    >>> shared["steps"], varied
    ('40', [{'seed': '0'}, {'seed': '1'}])
    """
    flat = [flatten(config_to_dict(config)) for config in configs]
    paths = list(dict.fromkeys(path for values in flat for path in values))
    common = [path for path in paths if all(values.get(path) == flat[0].get(path) for values in flat)]
    shared = {path: show(flat[0][path]) for path in common}
    return shared, [{path: show(values.get(path)) for path in paths if path not in common} for values in flat]
