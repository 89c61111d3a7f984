"""Tasks that other packages make: which fields they take, what a plan checks of them, and what identifies them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from toy_models.tasks.dataset_task import DATASET_TASK, HubRows, dataset_identity, dataset_rows, dataset_task
from toy_models.tasks.gym_imports import gym_version
from toy_models.tasks.reasoning_gym_task import (
    GYM_TASK,
    GymTask,
    check_normal_form,
    gym_data_set,
    lists_solutions,
)
from toy_models.tasks.registry import PUBLIC_TASKS
from toy_models.tasks.task import SPLITS
from toy_models.tasks.text_task import TextTask
from toy_models.tasks.verifiers_env_task import (
    VERIFIERS_TASK,
    VerifiersTask,
    environment_digest,
    verifiers_version,
)
from toy_models.verifiers.built_in import get_verifier
from toy_models.verifiers.verifier import Verifier

from ..errors import UsageError
from .config import show
from .field_helpers import Table
from .fields import RunConfig, TaskFields

__all__ = [
    "check_public_task",
    "needs_solutions",
    "public_identity",
    "public_problems",
    "public_sizes",
    "public_task",
    "recipe_rows",
]

HELD_OUT = 256  # questions of the validation and of the test split of reasoning-gym
_FIELDS = ("dataset", "config", "splits", "seed", "system", "answer_tag", "normal_form")
_OF_ROWS = ("dataset", "config", "splits")
_ALLOWED = {GYM_TASK: _FIELDS, DATASET_TASK: _OF_ROWS, VERIFIERS_TASK: ("dataset", "config")}


def public_problems(config: RunConfig) -> list[str]:
    """Which fields contradict each other, where a public task is named or its fields are used: one message each."""
    task, name = config.task, f"task.name = {show(config.task.name)}"
    allowed = _ALLOWED.get(task.name, ())
    stray = [f"task.{field}" for field in _FIELDS if field not in allowed and _is_set(task, field)]
    problems = []
    if stray:
        fields = {field.removeprefix("task.") for field in stray}
        owners = " or ".join(f'"{owner}"' for owner in PUBLIC_TASKS if fields <= set(_ALLOWED[owner]))
        problems.append(f"{', '.join(stray)} with {name}: these fields belong to task.name = {owners}; leave them out")
    if task.name not in PUBLIC_TASKS:
        return problems
    if task.dataset is None:
        problems.append(f'{name} without task.dataset: name the data set, such as "chain_sum"')
    if config.rollout.max_new_tokens is None and task.name != DATASET_TASK:
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
    if task.name == DATASET_TASK:
        problems += [
            f"task.splits.{split}: expected one of {', '.join(SPLITS)} with the name of a split of the data set, got "
            f"{show(part)}"
            for split, part in task.splits.items()
            if split not in SPLITS or not isinstance(part, str)
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
    if task.name == DATASET_TASK:
        rows = recipe_rows(task)
        try:
            verifier = get_verifier(task.verifier, seconds=task.verifier_seconds)
        except ValueError as error:
            raise UsageError(f"task.verifier = {task.verifier!r}: {error}") from error
        try:
            dataset_task(rows, task.prompt_column, task.answer_column, verifier)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from error
        return
    if task.name == VERIFIERS_TASK:
        environment_of(task)
        if (needed := needs_solutions(config)) is not None:
            raise UsageError(
                f"{needed[0]} with {where}: the correct responses of an environment cannot be listed; {needed[1]}"
            )
        return
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
    if task.name == DATASET_TASK:
        return f"sha256:{dataset_identity(recipe_rows(task))}"
    if task.name not in PUBLIC_TASKS:
        return None
    assert task.dataset is not None
    try:
        if task.name == VERIFIERS_TASK:
            return f"verifiers {verifiers_version()} sha256:{environment_digest(task.dataset)}"
        return f"reasoning-gym {gym_version()}"
    except ValueError as error:
        raise UsageError(f"task.name = {show(task.name)}: {error}") from error


def recipe_rows(task: TaskFields) -> dict[str, HubRows]:
    """The rows of the data set that a recipe names. Raises UsageError where it cannot be loaded."""
    assert task.dataset is not None
    try:
        return dataset_rows(task.dataset, task.config, task.splits)
    except ValueError as error:
        raise UsageError(f"task.dataset = {show(task.dataset)}: {error}") from error


def environment_of(task: TaskFields, workers: int = 1) -> VerifiersTask:
    """The environment that a recipe names, loaded once. Raises UsageError where it cannot be trained on."""
    assert task.dataset is not None
    try:
        return _environment(task.dataset, task.config, workers)
    except ValueError as error:
        raise UsageError(f"task.dataset = {show(task.dataset)}: {error}") from error


@functools.lru_cache(4)
def _environment(name: str, config: Table, workers: int) -> VerifiersTask:
    """Loading one takes seconds, and a plan asks for it several times."""
    return VerifiersTask(name, config, workers=workers)


def public_task(config: RunConfig, verifier: Callable[[], Verifier]) -> TextTask:
    """The task in texts that the recipe names. Raises ValueError as its class does.

    Args:
        config: A run's configuration.
        verifier: Makes the verifier of the task `dataset`; the other tasks score by themselves.
    """
    task = config.task
    assert task.dataset is not None
    if task.name == VERIFIERS_TASK:
        return environment_of(task, config.threads)
    if task.name == DATASET_TASK:
        return dataset_task(recipe_rows(task), task.prompt_column, task.answer_column, verifier())
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
