"""Which fields of [objective] go together beyond the objective's own parameters: teacher, KL, adaptive entropy."""

from __future__ import annotations

from ..errors import UsageError
from ..objectives.definition import Entry
from ..objectives.rules import entry, is_own
from .config import FIELDS, show
from .fields import ObjectiveFields, RunConfig

__all__ = ["objective_problems"]


def objective_problems(config: RunConfig) -> list[str]:
    """One message for each contradiction, with the fields and a way out."""
    objective = config.objective
    definition = _definition(objective)
    distils = definition is not None and "teacher_log_probs" in definition.needs
    counted = definition is None or definition.value == "r" or definition.graded
    of_tokens = definition is not None and "collision" in definition.reads
    before = objective.kl_placement == "before_baseline"
    adaptive = [
        f"objective.{name}"
        for name in ("entropy_coef_delta", "entropy_coef_min", "entropy_coef_max")
        if getattr(objective, name) != FIELDS[f"objective.{name}"].default
    ]
    rules = [
        (
            distils and objective.teacher is None,
            f"objective.name = {show(objective.name)} without objective.teacher: it learns from a teacher; set "
            "objective.teacher to a base or a folder",
        ),
        (
            definition is not None and not distils and objective.teacher is not None,
            f"objective.teacher with objective.name = {show(objective.name)}: it reads no teacher; leave "
            "objective.teacher out or choose opd",
        ),
        (
            before and not counted,
            f'objective.kl_placement = "before_baseline" with objective.name = {show(objective.name)}: its advantages '
            "are defined for rewards 0 and 1 only; choose rloo, grpo or dr-grpo, or kl_placement = reward",
        ),
        (
            objective.kl_placement != "loss" and of_tokens,
            f"objective.kl_placement = {show(objective.kl_placement)} with objective.name = {show(objective.name)}: "
            "its advantages are made token by token from the task's rewards; place the KL in the loss",
        ),
        (
            before and config.critic.enabled,
            'objective.kl_placement = "before_baseline" with critic.enabled: a critic has no group; choose '
            "kl_placement = reward",
        ),
        (
            before and config.update.rows == "drop",
            'objective.kl_placement = "before_baseline" with update.rows = "drop": the KL gives every row an '
            'advantage; set update.rows = "keep"',
        ),
        (
            objective.entropy_target is None and bool(adaptive),
            f"{', '.join(adaptive)} without objective.entropy_target: the coefficient is constant then; set "
            "objective.entropy_target or leave them out",
        ),
        (
            objective.entropy_coef_min > objective.entropy_coef_max,
            f"objective.entropy_coef_min = {objective.entropy_coef_min:g} with objective.entropy_coef_max = "
            f"{objective.entropy_coef_max:g}: expected the least first; exchange them",
        ),
    ]
    return [message for wrong, message in rules if wrong]


def _definition(objective: ObjectiveFields) -> Entry | None:
    """The entry of the objective; None for a function of the user's and for a name that is refused elsewhere."""
    try:
        return None if is_own(objective.name) else entry(objective.name, objective.form)
    except UsageError:
        return None
