"""Objectives under the names and the settings of verl's configuration.

An objective is called in verl as in docs/objectives.md, with underscores: `w_reinforce` as an advantage estimator,
`w_reinforce_ratio` as a policy loss. Where verl has an estimator or a loss of that name itself, verl's stays and this
project's is `dynamics_<name>`. The settings are keys that are added to verl's own:

    algorithm.rlvr_lambda            λ of W-REINFORCE
    algorithm.rlvr_threshold         a reward above it counts as 1, any other as 0
    algorithm.rlvr_parameters.NAME   parameters that the advantages read
    actor_rollout_ref.actor.policy_loss.rlvr_parameters.NAME, .rlvr_threshold   the same for the loss
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ....errors import UsageError
from ....objectives import Entry, Objective, entry, get, names
from ....objectives.rules import is_own
from ....objectives.user_losses import registered

__all__ = [
    "ADVANTAGE_SIDE",
    "LOSS_SIDE",
    "VERL_PREFIX",
    "Named",
    "Settings",
    "Side",
    "estimators_besides",
    "family",
    "lacks",
    "losses_besides",
    "read_settings",
    "spelled",
]

VERL_PREFIX = "dynamics_"  # of an objective whose name verl uses itself
FORMS = ("ratio", "probability", "log")
FAMILIES = ("psr", "nsr", "w-reinforce", "reinforce")
KEYS = ("rlvr_lambda", "rlvr_threshold", "rlvr_parameters")


@dataclass(frozen=True)
class Side:
    """Where the settings of one side of an objective stand in verl's configuration."""

    key: str  # of the node that holds them
    settings: tuple[str, ...]  # keys of this project that it takes


ADVANTAGE_SIDE = Side("algorithm", KEYS)
LOSS_SIDE = Side("actor_rollout_ref.actor.policy_loss", ("rlvr_threshold", "rlvr_parameters"))


@dataclass(frozen=True)
class Settings:
    """What a user set beside verl's own settings.

    Attributes:
        parameters: of the objective, by their names in `analysis.objectives.get`.
        threshold: a reward above it counts as 1, any other as 0; None where rewards stay as they are.
    """

    parameters: dict[str, Any]
    threshold: float | None = None


@dataclass(frozen=True)
class Named:
    """An objective under a name of verl's configuration.

    Attributes:
        name: the name in verl.
        objective: the name in docs/objectives.md.
        form: the form, where the name chooses one of several.
    """

    name: str
    objective: str
    form: str | None = None

    @property
    def entry(self) -> Entry:
        """What there is to know of the objective."""
        return _entry_of(self.objective)

    def for_advantages(self, settings: Settings) -> Objective:
        """The objective whose advantages are computed; UsageError in terms of verl's keys where a setting is wrong."""
        if "lambda_" in self.entry.defaults and settings.parameters.get("lambda_") is None:
            raise UsageError(
                f"algorithm.rlvr_lambda: {self.name} needs λ, the weight of correct responses, got none; add "
                "+algorithm.rlvr_lambda=0.1, which is the paper's"
            )
        return self._with(settings.parameters, ADVANTAGE_SIDE)

    def for_loss(self, settings: Settings) -> Objective:
        """The objective whose loss is computed. Parameters that it must have but that only its advantages read, such as
        λ, need not be given again."""
        required = {
            parameter.name: parameter.low if math.isfinite(parameter.low) and parameter.low > 0 else 1.0
            for parameter in self.entry.parameters
            if parameter.required
        }
        return self._with({**required, **settings.parameters}, LOSS_SIDE)

    def _with(self, parameters: Mapping[str, Any], side: Side) -> Objective:
        given = dict(parameters)
        if self.form is not None and given.setdefault("form", self.form) != self.form:
            raise UsageError(
                f"{side.key}.rlvr_parameters.form: expected {self.form}, which the name {self.name} says, got "
                f"{given['form']}; leave it unset"
            )
        try:
            return get(self.objective, **given)
        except UsageError as error:
            raise UsageError(_in_words_of_verl(str(error), side)) from error


def _in_words_of_verl(message: str, side: Side) -> str:
    """A message about fields of a recipe, with the keys of verl's configuration that stand for them."""
    message = message.replace("objective.lambda", f"{ADVANTAGE_SIDE.key}.rlvr_lambda")
    message = message.replace("rollout.group_size", "actor_rollout_ref.rollout.n")
    return re.sub(r"\bobjective\.(?=[a-z])", f"{side.key}.rlvr_parameters.", message)


def _entry_of(name: str) -> Entry:
    return get(name).entry if is_own(name) or registered(name) else entry(name)


def spelled(name: str) -> str:
    """The name of an objective in verl's configuration.

    >>> spelled("w-reinforce-ratio")
    'w_reinforce_ratio'
    """
    return name.replace("-", "_")


def family(name: str) -> str:
    """What objectives with the same advantages share: psr of psr-ratio and psr-released, else the name.

    >>> family("w-reinforce-released"), family("grpo")
    ('w-reinforce', 'grpo')
    """
    for stem in FAMILIES:
        if name in (stem, f"{stem}-released", *(f"{stem}-{form}" for form in FORMS)):
            return stem
    return name


def lacks(name: str) -> str | None:
    """Why verl cannot train on the objective `name`, as the end of a sentence; None where it can.

    >>> lacks("psr-ratio") is None, lacks("dpo")
    (True, 'compares pairs of responses, which a batch of verl lacks; choose another objective')
    """
    known = _entry_of(name)
    for refused, why in (
        (
            not known.scalar and "teacher_logits" in known.needs,
            "learns from the logits of a teacher, which a policy loss of verl does not get; use verl's distillation",
        ),
        (
            not known.scalar,
            "is a regulariser over the vocabulary, and a policy loss of verl gets log-probs of sampled tokens alone; "
            "set actor.entropy_coeff or actor.use_kl_loss beside another objective",
        ),
        (
            known.coupling == "pair",
            "compares pairs of responses, which a batch of verl lacks; choose another objective",
        ),
        (
            "teacher_log_probs" in known.needs,
            "learns from a teacher, whose log-probs a policy loss of verl does not get; use verl's distillation",
        ),
        (
            "greedy_rewards" in known.reads,
            "subtracts the reward of each prompt's greedy response, which verl's trainer does not sample; choose "
            "dynamics_rloo or dr_grpo",
        ),
        (
            "collision" in known.reads,
            "weighs positions by Σ_v π_v², which verl passes to its own estimator of that name alone; choose "
            "adv_estimator=optimal_token_baseline",
        ),
        (
            "mean_log_probs" in known.reads,
            "ranks responses by their log-probs, which verl passes to no estimator; choose dr_grpo or maxrl",
        ),
        (
            "reward_components" in known.reads,
            "normalises several rewards of a response apart, of which verl's trainer passes their sum alone; choose "
            "dynamics_grpo or dynamics_rloo",
        ),
        (
            "token_weights" in known.needs,
            "reads the token weights of a reward model, which a batch of verl lacks; choose another objective",
        ),
    ):
        if refused:
            return why
    return None


def estimators_besides(taken: Collection[str]) -> dict[str, Named]:
    """The objectives that have advantages in verl, by their names there.

    Args:
        taken: The names of verl's own estimators.

    Example:
        >>> table = estimators_besides(["grpo"])
        >>> table["psr"].objective, table["dynamics_grpo"].objective
        ('psr-ratio', 'grpo')
    """
    table = [Named(spelled(stem), f"{stem}-ratio") for stem in FAMILIES]
    table += [Named(spelled(name), name) for name in names() if lacks(name) is None]
    return _keyed(table, taken)


def losses_besides(taken: Collection[str]) -> dict[str, Named]:
    """The objectives that have a policy loss in verl, by their names there; one for each form where there are several.

    Args:
        taken: The names of verl's own policy losses.

    Example:
        >>> table = losses_besides(["gspo"])
        >>> sorted(name for name in table if name.startswith("psr")), table["grpo_log"].form
        (['psr_log', 'psr_probability', 'psr_ratio', 'psr_released'], 'log')
    """
    table = []
    for name in names():
        if lacks(name) is None:
            table.append(Named(spelled(name), name))
            if "form" in entry(name).defaults:
                table += [Named(f"{spelled(name)}_{form}", name, form) for form in FORMS]
    return _keyed(table, taken)


def _keyed(table: list[Named], taken: Collection[str]) -> dict[str, Named]:
    keyed = {}
    for named in table:
        name = f"{VERL_PREFIX}{named.name}" if named.name in taken else named.name
        keyed[name] = Named(name, named.objective, named.form)
    return keyed


def read_settings(node: Any, side: Side) -> Settings:
    """The settings of this project in a node of verl's configuration.

    Args:
        node: `config.algorithm` or `config.actor_rollout_ref.actor.policy_loss`: a DictConfig, or the dataclass that
            verl makes of it.
        side: Which of the two.

    Raises:
        UsageError: A key of this project that the node does not take, a threshold that is not a finite number.

    Example:
        >>> read_settings({"rlvr_lambda": 0.1, "rlvr_parameters": {"advantage": "group_mean"}}, ADVANTAGE_SIDE)
        Settings(parameters={'advantage': 'group_mean', 'lambda_': 0.1}, threshold=None)
    """
    unknown = [name for name in _keys(node) if name.startswith("rlvr_") and name not in side.settings]
    if unknown:
        raise UsageError(
            f"{side.key}.{unknown[0]}: expected one of {', '.join(side.settings)}, got a key that nothing reads; "
            "correct its name or leave it out"
        )
    held = node.get("rlvr_parameters", None)
    if isinstance(held, DictConfig):
        held = OmegaConf.to_container(held, resolve=True)
    if held is not None and not isinstance(held, Mapping):
        raise UsageError(
            f"{side.key}.rlvr_parameters: expected a parameter beneath it, such as "
            f"+{side.key}.rlvr_parameters.advantage=group_mean, got {held!r}"
        )
    parameters = {("lambda_" if name == "lambda" else str(name)): value for name, value in (held or {}).items()}
    weight = node.get("rlvr_lambda", None) if "rlvr_lambda" in side.settings else None
    if weight is not None:
        if parameters.get("lambda_", weight) != weight:
            raise UsageError(
                f"{side.key}.rlvr_lambda: expected the λ of rlvr_parameters, {parameters['lambda_']}, got {weight}; "
                "set one of the two"
            )
        parameters["lambda_"] = weight
    return Settings(parameters, _threshold(node.get("rlvr_threshold", None), side))


def _keys(node: Any) -> list[str]:
    return [str(name) for name in node]


def _threshold(value: Any, side: Side) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(
            f"{side.key}.rlvr_threshold: expected a finite number, above which a reward counts as 1, got {value!r}"
        )
    return float(value)
