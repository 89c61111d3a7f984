"""Tasks that other packages make: which fields they take, what a plan checks of them, and what identifies them."""

from __future__ import annotations

from toy_models.tasks.gym_imports import gym_version
from toy_models.tasks.reasoning_gym_task import (
    GYM_TASK,
    GymTask,
    check_normal_form,
    gym_data_set,
    lists_solutions,
)
from toy_models.tasks.registry import PUBLIC_TASKS
from toy_models.tasks.text_task import TextTask

from ..errors import UsageError
from .config import show
from .fields import RunConfig, TaskFields

__all__ = ["check_public_task", "needs_solutions", "public_identity", "public_problems", "public_sizes", "public_task"]

HELD_OUT = 256  # questions of the validation and of the test split of reasoning-gym
_FIELDS = ("dataset", "config", "splits", "seed", "system", "answer_tag", "normal_form")
_OF_GYM = _FIELDS


def public_problems(config: RunConfig) -> list[str]:
    """Which fields contradict each other, where a public task is named or its fields are used: one message each."""
    task, name = config.task, f"task.name = {show(config.task.name)}"
    allowed = {GYM_TASK: _OF_GYM}.get(task.name, ())
    stray = [f"task.{field}" for field in _FIELDS if field not in allowed and _is_set(task, field)]
    problems = []
    if stray:
        owners = " or ".join(f'"{owner}"' for owner in PUBLIC_TASKS)
        problems.append(f"{', '.join(stray)} with {name}: these fields belong to task.name = {owners}; leave them out")
    if task.name not in PUBLIC_TASKS:
        return problems
    if task.dataset is None:
        problems.append(f'{name} without task.dataset: name the data set, such as "chain_sum"')
    if config.rollout.max_new_tokens is None:
        problems.append(f"{name} without rollout.max_new_tokens: its answers have no longest length; set it")
    if task.system is not None and not task.chat_template:
        problems.append(
            "task.system with task.chat_template = false: a system message needs a template; set it to true"
        )
    if task.name == GYM_TASK:
        problems += [
            f"task.splits.{split}: expected validation or test with a number of questions ≥ 1, got {show(count)}; the "
            "training split has task.train_prompts questions"
            for split, count in task.splits.items()
            if split not in ("validation", "test") or type(count) is not int or count < 1
        ]
    return problems


def public_sizes(task: TaskFields) -> dict[str, int]:
    """The number of prompts of each split of the task `reasoning-gym`."""
    return {"train": task.train_prompts} | {
        split: int(task.splits.get(split, HELD_OUT)) for split in ("validation", "test")
    }


def check_public_task(config: RunConfig) -> None:
    """Refuse a task whose package is missing, whose settings are invalid, or that cannot give what the run needs.

    Raises:
        UsageError: What was expected, what came, and how to fix it.
    """
    task = config.task
    if task.name not in PUBLIC_TASKS:
        return
    assert task.dataset is not None
    where = f"task.dataset = {show(task.dataset)}"
    try:
        gym_data_set(task.dataset, task.config, task.seed, 2 * sum(public_sizes(task).values()))
        if task.normal_form:
            check_normal_form(task.dataset, task.config)
        lists = lists_solutions(
            task.dataset, normal_form=task.normal_form, answer_tag=task.answer_tag, threshold=task.threshold
        )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if not lists and (needed := needs_solutions(config)) is not None:
        raise UsageError(
            f"{needed[0]} with {where}: its correct responses cannot be listed (docs/how_to/public_tasks.md "
            f"says of which data sets they can); {needed[1]}"
        )


def public_identity(task: TaskFields) -> str | None:
    """What the content of a public task depends on beside its fields: the version of its package; None for others."""
    if task.name != GYM_TASK:
        return None
    try:
        return f"reasoning-gym {gym_version()}"
    except ValueError as error:
        raise UsageError(f"task.name = {show(task.name)}: {error}") from error


def public_task(config: RunConfig) -> TextTask:
    """The task in texts that the recipe names. Raises ValueError as its class does."""
    task = config.task
    assert task.dataset is not None
    return GymTask(
        task.dataset,
        task.config,
        public_sizes(task),
        seed=task.seed,
        system=task.system,
        answer_tag=task.answer_tag,
        normal_form=task.normal_form,
        threshold=task.threshold,
        workers=config.threads,
    )


def needs_solutions(config: RunConfig) -> tuple[str, str] | None:
    """What of a run needs every correct response, and the way out; None where nothing does."""
    needs = [
        (config.eval.samples == 0, "eval.samples = 0", "set eval.samples ≥ 1, so that Pass@k is estimated"),
        (config.update.estimator == "exact", 'update.estimator = "exact"', 'choose "sampled"'),
        (config.record.noise_every > 0, f"record.noise_every = {config.record.noise_every}", "set it to 0"),
    ]
    return next(((field, cure) for needed, field, cure in needs if needed), None)


def _is_set(task: TaskFields, field: str) -> bool:
    return bool(getattr(task, field) != TaskFields.__dataclass_fields__[field].default)
