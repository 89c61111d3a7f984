"""Which fields of a run's configuration go together: every rule that needs more than one field."""

from __future__ import annotations

import re

from toy_models.bases.recipes import BASES

from ..errors import UsageError
from ..objectives.definition import Entry
from ..objectives.entries import FAMILIES
from ..objectives.parameters import CORRECTIONS, FORMS
from ..objectives.rules import check, compares, is_own, not_trainable
from ..objectives.rules import entry as objective_entry
from .config import FIELDS, config_to_dict, field_of, flatten, show
from .fields import GIVEN, CriticFields, ObjectiveFields, RunConfig, objective_settings
from .objective_rules import objective_problems
from .public_tasks import public_problems
from .score_rules import score_problems
from .task_rules import task_problems
from .update_rules import update_problems

__all__ = ["combination_problems"]


def combination_problems(config: RunConfig) -> list[str]:
    """Which fields of a configuration contradict each other: one message each, with the fields and a way out."""
    objective, optimizer, rollout, update = config.objective, config.optimizer, config.rollout, config.update
    rows = rollout.prompts * rollout.group_size
    problems = []
    try:
        check(name=objective.name, group_size=rollout.group_size, **objective_settings(objective))
        if (why := not_trainable(objective.name, objective.form)) is not None:
            problems.append(f"objective.name = {show(objective.name)}: {why}")
    except UsageError as error:
        problems.append(str(error))
    base, known, without = BASES.get(config.policy.base), _known(objective), _no_critic(objective)
    rules = [
        (
            base is not None and config.task.name not in (base.task, GIVEN),
            f"policy.base = {show(config.policy.base)} with task.name = {show(config.task.name)}: that base was made "
            f"for {show(base and base.task)}; set task.name to it, or choose another base",
        ),
        (
            objective.kl_estimator == "full" and objective.kl_placement != "loss",
            'objective.kl_estimator = "full" with objective.kl_placement = '
            f'"{objective.kl_placement}": a reward needs a sampled estimator; '
            "choose k1, k2 or k3, or place it in the loss",
        ),
        (
            optimizer.name == "adamw" and optimizer.momentum > 0,
            f'optimizer.momentum = {optimizer.momentum:g} with optimizer.name = "adamw": adamw takes betas; '
            'leave momentum out or choose "sgd"',
        ),
        (
            optimizer.name == "sgd" and optimizer.betas != FIELDS["optimizer.betas"].default,
            'optimizer.betas with optimizer.name = "sgd": sgd takes momentum; leave betas out or choose "adamw"',
        ),
        (
            update.minibatches is not None and update.minibatch_size is not None,
            "update.minibatches with update.minibatch_size: one follows from the other; leave one of them out",
        ),
        (
            update.minibatches is not None and update.minibatches > rows,
            f"update.minibatches = {update.minibatches} with rollout.prompts × rollout.group_size = {rows} rows: "
            "set at most one minibatch per row",
        ),
        (
            update.minibatch_size is not None and update.minibatch_size > rows,
            f"update.minibatch_size = {update.minibatch_size} with rollout.prompts × rollout.group_size = {rows} rows: "
            "set at most the number of rows",
        ),
        (
            update.normalizer == "constant" and update.constant is None,
            'update.normalizer = "constant" without update.constant: set update.constant to the divisor',
        ),
        (
            update.normalizer != "constant" and update.constant is not None,
            f"update.constant = {update.constant} with update.normalizer = "
            f'"{update.normalizer}": leave update.constant '
            'out or set update.normalizer = "constant"',
        ),
        (
            update.drop == "after" and update.rows == "keep",
            'update.drop = "after" with update.rows = "keep": no row is dropped; set update.rows = "drop" or leave '
            "update.drop out",
        ),
        (
            update.rows == "drop" and known is not None and not known.homogeneous,
            f'update.rows = "drop" with objective.name = {show(objective.name)}: its tokens have a weight where the '
            'advantage is 0 too; set update.rows = "keep"',
        ),
        (
            config.critic.enabled and without is not None,
            f"critic.enabled with objective.name = {show(objective.name)}: "
            f"{without}; choose reinforce, w-reinforce or ppo",
        ),
        (
            config.critic.enabled and update.rows == "drop",
            'critic.enabled with update.rows = "drop": every row has an advantage then; set update.rows = "keep"',
        ),
        (
            config.critic.enabled and objective.advantage not in (None, "none"),
            f"critic.enabled with objective.advantage = {show(objective.advantage)}: two baselines; leave one out",
        ),
        (
            update.autocast is not None and config.policy.dtype == "float64",
            f"update.autocast = {show(update.autocast)} with policy.dtype = "
            '"float64": mixed precision leaves float64 as '
            'it is; set policy.dtype = "float32" or leave update.autocast out',
        ),
        (
            config.critic.whiten and rows < 2,
            "critic.whiten with rollout.prompts × rollout.group_size = 1 row: its tokens alone may be too few to "
            "standardise; draw more rollouts or leave critic.whiten out",
        ),
        (
            not config.critic.enabled and config.critic != CriticFields(),
            f"{', '.join(_set_in('critic', config))} without critic.enabled: no critic reads it; set critic.enabled = "
            "true or leave it out",
        ),
        (
            rollout.prompts > config.task.train_prompts,
            f"rollout.prompts = {rollout.prompts} with task.train_prompts = {config.task.train_prompts}: a step draws "
            "each prompt once at most; raise task.train_prompts or lower rollout.prompts",
        ),
        (
            len(set(config.eval.temperatures)) < len(config.eval.temperatures),
            f"eval.temperatures = {show(config.eval.temperatures)}: expected each temperature once; leave the repeated "
            "one out",
        ),
        (
            config.record.jvp_every == 0
            and config.record.shares_every not in (0, FIELDS["record.shares_every"].default),
            f"record.shares_every = {config.record.shares_every} with "
            "record.jvp_every = 0: no update has a JVP to split "
            "up; raise record.jvp_every or leave record.shares_every out",
        ),
        (
            update.old_log_probs == "rollouts" and config.critic.enabled,
            'update.old_log_probs = "rollouts" with critic.enabled: the critic reads the hidden states of the forward '
            "pass that old log-probs are from; leave update.old_log_probs out",
        ),
        (
            config.record.signs_every != 1 and _splits_steps(config),
            f"record.signs_every = {config.record.signs_every} with record.contexts = {config.record.contexts} and "
            f"record.shares_every = {config.record.shares_every}: steps by source need the gradients of both signs in "
            "every update; set record.signs_every = 1, or record.shares_every = 0",
        ),
        (
            config.record.noise_every == 0
            and any(
                getattr(config.record, name) != FIELDS[f"record.{name}"].default
                for name in ("noise_prompts", "noise_replicates")
            ),
            "record.noise_prompts or record.noise_replicates with "
            "record.noise_every = 0: gradient noise is not measured; "
            "set record.noise_every or leave them out",
        ),
        (
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device) is None,
            f"device: expected auto, cpu, cuda or cuda:N, got {show(config.device)}",
        ),
    ]
    problems += [message for wrong, message in rules if wrong]
    problems += objective_problems(config)
    problems += task_problems(config)
    problems += score_problems(config)
    problems += public_problems(config)
    problems += update_problems(config)
    return problems + (_exact_problems(config) if update.estimator == "exact" else [])


def _splits_steps(config: RunConfig) -> bool:
    """Whether JVPs are recorded by source, for which the optimiser's moment is kept apart by reward sign."""
    record = config.record
    return record.contexts > 0 and record.jvp_every > 0 and record.shares_every > 0


def _no_critic(objective: ObjectiveFields) -> str | None:
    """Why a learned baseline does not go with the objective, or None where it does."""
    known = _known(objective)
    name = _family(objective) or (objective.name if known is None else known.name)
    if name in ("reinforce", "w-reinforce", "ppo"):
        return None
    if name in ("psr", "nsr"):
        return "it learns from one reward sign alone, and with a baseline its rows would have weights of both"
    compared = frozenset() if known is None else compares(known, known.defaults)
    return (
        f"its {'group' if 'group' in compared else 'batch'} mean is a baseline already"
        if compared
        else "its weights are not advantages that a critic could estimate"
    )


def _known(objective: ObjectiveFields) -> Entry | None:
    """The entry of the toolkit's objective, by its name or an alias; None for another name."""
    try:
        return None if is_own(objective.name) else objective_entry(objective.name, objective.form)
    except UsageError:
        return None


def _set_in(table: str, config: RunConfig) -> list[str]:
    """The fields of a table that are not at their defaults."""
    values = flatten({table: config_to_dict(config)[table]})
    return [path for path, value in values.items() if (field := field_of(path)) is not None and value != field.default]


def _family(objective: ObjectiveFields) -> str | None:
    """psr, nsr, w-reinforce or reinforce; None where the name is that of another objective."""
    return next((family for family in FAMILIES if objective.name in (family, *(f"{family}-{f}" for f in FORMS))), None)


def _form(objective: ObjectiveFields) -> str | None:
    return objective.form or next((form for form in FORMS if objective.name.endswith(f"-{form}")), None)


def _exact_problems(config: RunConfig) -> list[str]:
    """The expected gradient by enumeration is that of one on-policy update with a fixed divisor and plain rewards."""
    objective, update = config.objective, config.update
    needs = [
        (update.epochs == 1, "update.epochs = 1"),
        (update.minibatches in (None, 1) and update.minibatch_size is None, "one minibatch (update.minibatches = 1)"),
        (update.rows == "keep", 'update.rows = "keep"'),
        (not update.shared_prompts, "update.shared_prompts = false"),
        (not update.gradient_checkpointing, "update.gradient_checkpointing = false"),
        (update.micro_batch_tokens is None, "no update.micro_batch_tokens (responses are enumerated, not batched)"),
        (update.old_log_probs == "policy", 'update.old_log_probs = "policy"'),
        (config.record.signs_every == 1, "record.signs_every = 1"),
        (update.normalizer == "constant", 'update.normalizer = "constant" (the other divisors depend on the sample)'),
        (_family(objective) is None or _form(objective) != "probability", 'objective.form = "ratio" or "log"'),
        (_family(objective) is not None, f"objective.name = {', '.join(FAMILIES)}, not grpo or another"),
        (objective.advantage in (None, "none", "constant"), 'objective.advantage = "none"'),
        (objective.kl_coef == 0, "objective.kl_coef = 0"),
        (objective.entropy_coef == 0, "objective.entropy_coef = 0"),
        (objective.entropy_target is None, "no objective.entropy_target"),
        (
            all(getattr(objective, parameter.name) is None for parameter in CORRECTIONS),
            "no correction of the rollouts (objective.rollout_is, rollout_reject, off_policy_threshold)",
        ),
        (config.rollout.top_p == 1, "rollout.top_p = 1"),
        (config.rollout.top_k == 0, "rollout.top_k = 0"),
        (
            config.rollout.refresh_every == 1 and not config.rollout.fixed,
            "rollouts of the policy of each step (rollout.refresh_every = 1, no rollout.fixed)",
        ),
        (update.token_mask is None, "no update.token_mask"),
        (not config.critic.enabled, "critic.enabled = false"),
        (
            config.task.false_positive == 0 and config.task.false_negative == 0,
            "no verifier noise (task.false_positive = task.false_negative = 0)",
        ),
    ]
    missing = [need for met, need in needs if not met]
    return [f'update.estimator = "exact" requires {"; ".join(missing)}'] if missing else []
