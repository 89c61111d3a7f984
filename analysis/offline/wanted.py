"""Objectives that are asked of a trace, as text: a name and its parameters, as in w-reinforce-ratio,lambda=0.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..objectives import Objective

__all__ = ["check_objectives", "objective_text", "parse_objective"]


def parse_objective(text: str) -> Objective:
    """The objective that a text names; parameters are those of a recipe's [objective], apart by commas.

    Raises UsageError for an unknown name or parameter, and for an objective that a trace cannot answer for.

    >>> parse_objective("w-reinforce-log,lambda=0.5").parameters["lambda_"]
    0.5
    """
    from ..objectives import get

    name, *given = (part.strip() for part in text.split(","))
    parameters: dict[str, Any] = {}
    for part in given:
        key, sign, value = part.partition("=")
        if not sign:
            raise UsageError(f"objective: expected NAME,PARAMETER=VALUE such as w-reinforce-log,lambda=0.1, got "
                             f"{text!r}")
        parameters["lambda_" if key == "lambda" else key] = _value(value)
    found = get(name, **parameters)
    found.check_use("a trace of recorded rollouts")
    return found


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def objective_text(objective: str | Objective) -> str:
    """An objective as text that `parse_objective` reads; UsageError where it cannot be had.

    >>> objective_text(parse_objective("grpo,clip_low=0.2"))
    'grpo,clip_low=0.2'
    """
    if isinstance(objective, str):
        parse_objective(objective)
        return objective
    defaults = objective.entry.defaults
    changed = {name: value for name, value in objective.parameters.items() if value != defaults.get(name)}
    return ",".join([objective.name, *(f"{name.rstrip('_')}={value}" for name, value in changed.items())])


def check_objectives(
    names: list[str], *, source: str, rewards: bool, old_log_probs: bool, verdicts: bool, singles: str | None
) -> None:
    """UsageError, before anything is traced, for an objective that lacks an input, with the column that would give it.

    `rewards`, `old_log_probs`: whether they are there; `verdicts`: whether all rewards are 0 or 1; `singles` describes
    a group of one response, None where every group has several.
    """
    import torch

    from ..recording.assumed import needs_verdicts

    for name in names:
        objective = parse_objective(name)
        if not rewards:
            raise UsageError(f"objective: {name} needs rewards, and {source} has no column for them; map one with "
                             "columns reward=NAME, or name a verifier (--verifier)")
        if "old_log_probs" in objective.needs() and not old_log_probs:
            raise UsageError(f"objective: {name} needs old log-probs, and {source} has no column for them; map one "
                             "with columns old_log_probs=NAME, say on_policy (--on-policy) where the model itself "
                             "sampled the rollouts (the ratio is 1 then), or take the form log or probability")
        if not verdicts and needs_verdicts(objective):
            raise UsageError(f"objective: {name} is defined for rewards 0 and 1, and {source} has others; give a "
                             "threshold (--threshold X: a reward above X counts as 1)")
        if singles is not None:
            try:
                objective.advantages(torch.zeros(1), 1, mean_log_probs=torch.zeros(1))
            except UsageError:
                raise UsageError(f"objective: {name} compares the responses of a group, and {singles}; map the column "
                                 "that tells groups apart with columns group=NAME; without one, responses to the same "
                                 "prompt are a group") from None
