"""One run's configuration: reading single values by the table of fields, checking combinations, plain-data form.

`FIELDS` is the flat view of `fields.RunConfig` ("update.epochs" → type, range, default). A configuration travels as
plain JSON data (`config_to_dict`, `config_from_dict`) into run.json and to the process that trains it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toy_models.bases import BASES

from ..errors import UsageError, nearest
from ..objectives.rules import check
from .fields import RunConfig

__all__ = ["FIELDS", "UNSET", "Field", "combination_problems", "config_from_dict", "config_to_dict", "flatten",
           "read_value", "show", "unknown_field"]

UNSET = "unset"
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


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
        return f"{count}numbers, each {self.range}"


def _fields() -> dict[str, Field]:
    found: dict[str, Field] = {}

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
            meta: dict[str, Any] = {name: value for name, value in item.metadata.items() if name != "key"}
            path = prefix + item.metadata.get("key", item.name)
            found[path] = Field(path, hint, item.default, optional=optional, size=size, **meta)

    add(RunConfig, "")
    return found


FIELDS: dict[str, Field] = _fields()
_TABLES = {item.name: item.default_factory for item in dataclasses.fields(RunConfig) if not item.metadata}


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


def unknown_field(path: str) -> str:
    """The message for a path that is no field, with the nearest that are.

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

    `"unset"` gives the default. Raises UsageError naming the field, what it takes and what came.
    """
    if path not in FIELDS:
        raise UsageError(f"{path}: is a table, write {path}.<field>" if path in _TABLES else unknown_field(path))
    field = FIELDS[path]
    if value == UNSET or (value is None and field.optional):
        return field.default
    if field.size is None:
        return _scalar(field, value, value)
    if not isinstance(value, list | tuple) or len(value) == 0 or field.size not in (0, len(value)):
        raise _wrong(field, value)
    return tuple(_scalar(field, item, value) for item in value)


def _scalar(field: Field, value: Any, whole: Any) -> Any:
    if field.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not field.kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(field, whole)
    if field.choices and value not in field.choices:
        raise _wrong(field, whole, hint=nearest(value, field.choices) if isinstance(value, str) else "")
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
    """The configuration from nested or dotted plain data; missing fields take their defaults.

    Raises UsageError for an unknown field or a wrong value. Combinations are checked by `combination_problems`.
    """
    values = {path: read_value(path, value) for path, value in flatten(data).items()}

    def build(cls: Any, prefix: str) -> Any:
        arguments = {}
        for item in dataclasses.fields(cls):
            path = prefix + item.metadata.get("key", item.name)
            if path in values:
                arguments[item.name] = values[path]
            elif not item.metadata:
                arguments[item.name] = build(item.default_factory, f"{item.name}.")
        return cls(**arguments)

    config: RunConfig = build(RunConfig, "")
    return config


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as nested plain data with every field present (None where unset), ready for JSON.

    >>> config_to_dict(RunConfig())["objective"]["lambda"] is None
    True
    >>> config_from_dict(config_to_dict(RunConfig())) == RunConfig()
    True
    """

    def plain(part: Any) -> Any:
        if dataclasses.is_dataclass(part):
            return {item.metadata.get("key", item.name): plain(getattr(part, item.name))
                    for item in dataclasses.fields(part)}
        return list(part) if isinstance(part, tuple) else part

    result: dict[str, Any] = plain(config)
    return result


def combination_problems(config: RunConfig) -> list[str]:
    """What is wrong with the configuration as a whole: each problem names the fields and a way out."""
    objective, optimizer, rollout, update = config.objective, config.optimizer, config.rollout, config.update
    rows = rollout.prompts * rollout.group_size
    problems = []
    try:
        check(name=objective.name, form=objective.form, lambda_=objective.lambda_, clip_low=objective.clip_low,
              clip_high=objective.clip_high, dual_clip=objective.dual_clip, advantage=objective.advantage,
              group_size=rollout.group_size)
    except UsageError as error:
        problems.append(str(error))
    base = BASES.get(config.policy.base)
    rules = [
        (base is not None and base.task != config.task.name,
         f"policy.base = {show(config.policy.base)} with task.name = {show(config.task.name)}: that base speaks "
         f"{show(base and base.task)}; set task.name to it or take another base"),
        (objective.kl_estimator == "full" and objective.kl_placement == "reward",
         'objective.kl_estimator = "full" with objective.kl_placement = "reward": a reward needs a sampled estimator; '
         "take k1, k2 or k3, or place it in the loss"),
        (optimizer.name == "adamw" and optimizer.momentum > 0,
         f'optimizer.momentum = {optimizer.momentum:g} with optimizer.name = "adamw": adamw takes betas; '
         'leave momentum out or take "sgd"'),
        (optimizer.name == "sgd" and optimizer.betas != FIELDS["optimizer.betas"].default,
         'optimizer.betas with optimizer.name = "sgd": sgd takes momentum; leave betas out or take "adamw"'),
        (update.minibatches is not None and update.minibatch_size is not None,
         "update.minibatches with update.minibatch_size: one follows from the other; leave one of them out"),
        (update.minibatches is not None and update.minibatches > rows,
         f"update.minibatches = {update.minibatches} with rollout.prompts × rollout.group_size = {rows} rows: "
         "take at most one minibatch a row"),
        (update.minibatch_size is not None and update.minibatch_size > rows,
         f"update.minibatch_size = {update.minibatch_size} with rollout.prompts × rollout.group_size = {rows} rows: "
         "take at most all rows"),
        (update.normalizer == "constant" and update.constant is None,
         'update.normalizer = "constant" without update.constant: set update.constant to the divisor'),
        (update.normalizer != "constant" and update.constant is not None,
         f'update.constant = {update.constant} with update.normalizer = "{update.normalizer}": leave update.constant '
         'out or set update.normalizer = "constant"'),
        (update.drop == "after" and update.rows == "keep",
         'update.drop = "after" with update.rows = "keep": no row is dropped; set update.rows = "drop" or leave '
         "update.drop out"),
        (config.critic.enabled and objective.name not in ("reinforce", "w-reinforce"),
         f"critic.enabled with objective.name = {show(objective.name)}: a baseline gives both signs a weight; take "
         "reinforce or w-reinforce"),
        (config.critic.enabled and update.rows == "drop",
         'critic.enabled with update.rows = "drop": every row has an advantage then; set update.rows = "keep"'),
        (config.critic.enabled and objective.advantage not in (None, "none"),
         f"critic.enabled with objective.advantage = {show(objective.advantage)}: two baselines; leave one of them out"),
        (config.critic.enabled and objective.kl_coef > 0 and objective.kl_placement == "reward",
         'critic.enabled with objective.kl_placement = "reward": the critic values the task\'s reward alone; place '
         "the KL in the loss"),
        (rollout.prompts > config.task.train_prompts,
         f"rollout.prompts = {rollout.prompts} with task.train_prompts = {config.task.train_prompts}: a step draws "
         "each prompt once at most; raise task.train_prompts or lower rollout.prompts"),
        (len(set(config.eval.temperatures)) < len(config.eval.temperatures),
         f"eval.temperatures = {show(config.eval.temperatures)}: each temperature once"),
        (re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device) is None,
         f"device: expected auto, cpu, cuda or cuda:N, got {show(config.device)}"),
    ]
    problems += [message for wrong, message in rules if wrong]
    return problems + (_exact_problems(config) if update.estimator == "exact" else [])


def _exact_problems(config: RunConfig) -> list[str]:
    """The expected gradient by enumeration is that of one on-policy update with a fixed divisor and plain rewards."""
    objective, update = config.objective, config.update
    needs = [
        (update.epochs == 1, "update.epochs = 1"),
        (update.minibatches in (None, 1) and update.minibatch_size is None, "one minibatch (update.minibatches = 1)"),
        (update.rows == "keep", 'update.rows = "keep"'),
        (update.normalizer == "constant", 'update.normalizer = "constant" (the other divisors depend on the sample)'),
        (objective.form != "probability", 'objective.form = "ratio" or "log"'),
        (objective.name != "grpo" and objective.advantage in (None, "none"), 'objective.advantage = "none", not grpo'),
        (objective.kl_coef == 0, "objective.kl_coef = 0"),
        (objective.entropy_coef == 0, "objective.entropy_coef = 0"),
        (config.rollout.top_p == 1, "rollout.top_p = 1"),
        (not config.critic.enabled, "critic.enabled = false"),
        (config.task.false_positive == 0 and config.task.false_negative == 0,
         "no verifier noise (task.false_positive = task.false_negative = 0)"),
    ]
    missing = [need for met, need in needs if not met]
    return [f'update.estimator = "exact" requires {"; ".join(missing)}'] if missing else []
