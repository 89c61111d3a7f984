"""Which fields go with which kind of task and policy: named, from files, or passed as objects from Python."""

from __future__ import annotations

from toy_models.tasks.dataset_task import DATASET_TASK
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import PUBLIC_TASKS, TASKS, TEXT_TASKS
from toy_models.verifiers.built_in import VERIFIERS

from .config import FIELDS, config_to_dict, flatten, show
from .fields import GIVEN, RunConfig

__all__ = ["task_problems"]

_OF_TEXTS = ("chat_template", "bos", "threshold", "verifier_errors")  # of a task object in texts, too
_OF_FILES = (
    "train_file",
    "validation_file",
    "test_file",
    "prompt_column",
    "answer_column",
    "verifier",
    "verifier_seconds",
    *_OF_TEXTS,
)

_OF_ROWS = tuple(field for field in _OF_FILES if not field.endswith("_file"))  # of files and of data sets
_JUDGED = (FILE_TASK, DATASET_TASK)  # rows whose responses a verifier judges


def task_problems(config: RunConfig) -> list[str]:
    """Which fields of the task contradict others: one message each, with a way out."""
    task, policy = config.task, config.policy
    name = f"task.name = {show(task.name)}"
    rules = [
        (
            task.name != GIVEN and task.digest is not None,  # `check_inputs` refuses "given" without a task
            f'{name} with task.digest = {show(task.digest)}: "{GIVEN}" stands for a task object; pass it with '
            "analysis.run(recipe, task=…), which writes both",
        ),
        (
            (policy.base == GIVEN) != (policy.digest is not None),
            f"policy.base = {show(policy.base)} with policy.digest = "
            f'{show(policy.digest)}: "{GIVEN}" stands for a policy '
            "object; pass it with analysis.run(recipe, policy=…), which writes both",
        ),
    ]
    without_lora = [name for name in ("alpha", "targets") if getattr(policy, f"lora_{name}") is not None]
    rules += [
        (
            bool(without_lora) and policy.lora_r is None,
            f"policy.lora.{' and policy.lora.'.join(without_lora)} without policy.lora.r: an adapter needs a rank; set "
            "policy.lora.r",
        ),
        (
            policy.lora_r is not None and policy.base == GIVEN,
            f'policy.lora.r with policy.base = "{GIVEN}": an adapter is saved with the name of its base, and an object '
            "has none; save the policy and name its folder",
        ),
    ]
    if task.name in _JUDGED:
        rules += [
            (
                task.name == FILE_TASK and task.train_file is None,
                f"{name} without task.train_file: name the file of prompts and answers",
            ),
            (
                config.rollout.max_new_tokens is None,
                f"{name} without rollout.max_new_tokens: answers in files have no longest length; set it",
            ),
            (
                config.eval.samples == 0,
                f"{name} with eval.samples = 0: its correct responses cannot be listed, so Pass@k is estimated from "
                "samples; set eval.samples ≥ 1",
            ),
            (
                config.update.estimator == "exact",
                f'{name} with update.estimator = "exact": its correct responses cannot be listed; choose "sampled"',
            ),
            (
                config.record.noise_every > 0,
                f"{name} with record.noise_every = {config.record.noise_every}: gradient noise is measured around the "
                "exact gradient, which needs every correct response; set it to 0",
            ),
            (
                task.verifier not in VERIFIERS and ":" not in task.verifier,
                f"task.verifier: expected {', '.join(VERIFIERS)}, file.py:function or package.module:function, got "
                f"{show(task.verifier)}",
            ),
        ]
    if task.name != FILE_TASK:
        values = flatten(config_to_dict(config))
        own = _OF_ROWS if task.name == DATASET_TASK else _OF_TEXTS if task.name in (GIVEN, *PUBLIC_TASKS) else ()
        fields = [field for field in _OF_FILES if field not in own]
        fields += ["reward"] if task.name in (*TASKS, *TEXT_TASKS) else []
        stray = [path for path in (f"task.{field}" for field in fields) if values[path] != FIELDS[path].default]
        rules.append(
            (
                bool(stray),
                f'{", ".join(stray)} with {name}: these fields belong to task.name = "{FILE_TASK}"; leave them out',
            )
        )
    return [message for wrong, message in rules if wrong]
