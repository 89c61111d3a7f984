"""Which fields go with verifiers that give numbers, and with numbers as rewards (`task.reward`)."""

from __future__ import annotations

from toy_models.verifiers.verifier import VERIFIERS

from ..errors import UsageError
from ..objectives.definition import Entry
from ..objectives.rules import entry, is_own
from .config import FIELDS, show
from .fields import ObjectiveFields, RunConfig

__all__ = ["score_problems", "takes_scores"]

_SIGNED = ("psr", "nsr", "w-reinforce")  # objectives of correct or of wrong responses, or of both apart
_OF_FUNCTIONS = ("threshold", "verifier_seconds", "verifier_errors")


def takes_scores(definition: Entry, advantage: str, *, critic: bool = False) -> bool:
    """Whether an objective is defined for any number as a reward, rather than for 1 and 0 alone.

    Args:
        definition: The entry of the objective.
        advantage: How it normalises rewards; "none" without a choice.
        critic: Whether a critic estimates the advantages.

    >>> takes_scores(entry("grpo"), "group_mean_std"), takes_scores(entry("nsr", "log"), "none")
    (True, False)
    """
    if {"rewards", "accuracy"} & set(definition.needs):
        return False
    normalised = critic or advantage not in ("none", "constant")
    return definition.graded or (definition.value in ("r", "2r-1") and normalised)


def score_problems(config: RunConfig) -> list[str]:
    """One message for each contradiction, with the fields and a way out."""
    task, objective = config.task, config.objective
    reward, own = 'task.reward = "score"', ":" in task.verifier
    changed = [f"task.{name}" for name in _OF_FUNCTIONS if getattr(task, name) != FIELDS[f"task.{name}"].default]
    refused = None if task.reward == "correct" else _refused(objective, critic=config.critic.enabled)
    rules = [
        (
            task.verifier in VERIFIERS and task.name in ("file", "dataset") and bool(changed),
            f"{', '.join(changed)} with task.verifier = {show(task.verifier)}: they are of verifiers of your own "
            "(file.py:function); leave them out",
        ),
        (
            task.reward == "score" and task.name in ("file", "dataset") and not own,
            f"{reward} with task.verifier = {show(task.verifier)}: it says correct or wrong and gives no score; name a "
            'function that does (file.py:function), or set task.reward = "correct"',
        ),
        (refused is not None, f"{reward} with {refused}"),
        (
            task.reward == "score" and (task.false_positive > 0 or task.false_negative > 0),
            f"{reward} with task.false_positive = {task.false_positive:g} and task.false_negative = "
            f"{task.false_negative:g}: verifier noise turns a 1 into a 0, which a score is not; set both to 0 or "
            'task.reward = "correct"',
        ),
        (
            task.reward == "score" and config.update.estimator == "exact",
            f'{reward} with update.estimator = "exact": correct responses can be listed, scores cannot; choose '
            '"sampled"',
        ),
        (
            task.reward == "score" and config.record.noise_every > 0,
            f"{reward} with record.noise_every = {config.record.noise_every}: gradient noise is measured for rewards 1 "
            "and 0; set it to 0",
        ),
    ]
    return [message for wrong, message in rules if wrong]


def _refused(objective: ObjectiveFields, *, critic: bool) -> str | None:
    """The objective, why scores are not its rewards, and the way out; None where they are."""
    if is_own(objective.name):
        return None
    try:
        definition = entry(objective.name, objective.form)
    except UsageError:  # which is refused elsewhere
        return None
    advantage = objective.advantage or str(definition.defaults.get("advantage", "none"))
    of_signs = any(definition.name.startswith(f"{family}-") for family in _SIGNED)
    if not of_signs and takes_scores(definition, advantage, critic=critic):
        return None
    name, way = f"objective.name = {show(objective.name)}", 'choose grpo or rloo, or set task.reward = "correct"'
    if definition.value == "1":
        return f"{name}: it does not weigh responses by their reward; {way}"
    if not of_signs and definition.value in ("r", "2r-1") and not {"rewards", "accuracy"} & set(definition.needs):
        return f"{name}: without a baseline the sign of A would be that of the score; set objective.advantage, {way}"
    return f"{name}: it needs the sign of each response, correct or wrong; {way}"
