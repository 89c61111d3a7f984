"""Objectives as text: a name and its parameters, as in w-reinforce-log,lambda=0.1; for command lines and records."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .objective import Objective, get

__all__ = ["objective_text", "parse_objective"]


def parse_objective(text: str) -> Objective:
    """The objective that a text such as w-reinforce-log,lambda=0.1 names.

    Args:
        text: a name, then parameters of a recipe's [objective] as PARAMETER=VALUE, separated by commas.

    Returns:
        The objective, as from `get`.

    Raises:
        UsageError: another form of text, and as `get`.

    >>> parse_objective("w-reinforce-log,lambda=0.5").parameters["lambda_"]
    0.5
    """
    name, *given = (part.strip() for part in text.split(","))
    parameters: dict[str, Any] = {}
    for part in given:
        key, sign, value = part.partition("=")
        if not sign:
            raise UsageError(
                f"objective: expected NAME,PARAMETER=VALUE such as w-reinforce-log,lambda=0.1, got {text!r}"
            )
        parameters["lambda_" if key == "lambda" else key] = _value(value)
    return get(name, **parameters)


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def objective_text(objective: str | Objective) -> str:
    """An objective as text that `parse_objective` reads.

    Args:
        objective: an objective, or such a text, which is checked.

    Returns:
        The name, with the parameters that differ from their defaults.

    Raises:
        UsageError: a text that names no objective.

    >>> objective_text(parse_objective("grpo,clip_low=0.2"))
    'grpo,clip_low=0.2'
    """
    if isinstance(objective, str):
        parse_objective(objective)
        return objective
    defaults = objective.entry.defaults
    changed = {name: value for name, value in objective.parameters.items() if value != defaults.get(name)}
    return ",".join([objective.name, *(f"{name.rstrip('_')}={value}" for name, value in changed.items())])
