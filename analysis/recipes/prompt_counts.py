"""How many prompts a run needs and how many its task has, as far as that is known without loading a model."""

from __future__ import annotations

from toy_models.tasks.dataset_task import DATASET_TASK
from toy_models.tasks.encoded_task import HELD_OUT_SHARE
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import PUBLIC_TASKS, TASKS, TEXT_TASKS, built_in_task, text_task_sizes
from toy_models.tasks.task import SPLITS
from toy_models.tasks.verifiers_env_task import VERIFIERS_TASK

from ..errors import UsageError
from .fields import RunConfig, TaskFields
from .inputs import data_files
from .public_tasks import environment_of, public_sizes, recipe_rows

__all__ = ["check_prompt_counts", "check_split"]


def check_split(field: str, count: int, task: str, split: str, available: int) -> None:
    """UsageError that names the recipe's field where a split has fewer prompts than the field asks for."""
    if count > available:
        raise UsageError(
            f"{field}: expected at most {available}, the number of {split} prompts of task {task}, got {count}; "
            "lower it"
        )


def check_prompt_counts(config: RunConfig) -> None:
    """Refuse a run whose task has too few prompts.

    Prompts of files are counted by their text, of which a tokenizer can only make fewer; the prompts of a task
    object are counted by the run itself.
    """
    task, fields, record = config.task, config.eval, config.record
    if task.name in TASKS:
        available = dict(built_in_task(task.name).split_sizes)
    elif task.name in TEXT_TASKS:
        available = text_task_sizes(task.name)
    elif task.name == DATASET_TASK:
        available = _with_held_out({split: len(rows) for split, rows in recipe_rows(task).items()})
    elif task.name == VERIFIERS_TASK:
        available = _with_held_out({"train": len(environment_of(task).items("train") or ())})
    elif task.name in PUBLIC_TASKS:
        available = public_sizes(task)
    elif task.name == FILE_TASK:
        available = _prompts_in_files(task)
    else:
        return
    needed = [
        ("task.train_prompts", task.train_prompts, "train"),
        ("eval.prompts", fields.prompts, "validation"),
        ("eval.prompts", fields.prompts, "test"),
        ("eval.final_prompts", fields.final_prompts, "test"),
    ]
    if record.noise_every:
        needed.append(("record.noise_prompts", record.noise_prompts, "validation"))
    for field, count, split in needed:
        check_split(field, count, task.name, split, available[split])


def _prompts_in_files(task: TaskFields) -> dict[str, int]:
    """At most how many prompts each split of the task `file` has; UsageError where its files cannot be read."""
    files = data_files(task)
    try:
        counts = {split: files.distinct_prompts(rows) for split, rows in files.read().items()}
    except ValueError as error:
        raise UsageError(f"task: {error}") from error
    return _with_held_out(counts)


def _with_held_out(counts: dict[str, int]) -> dict[str, int]:
    """The prompts of each split, where those without prompts of their own get some of the training prompts."""
    missing = [split for split in SPLITS if split not in counts]
    # Rounding may leave more for training where a tokenizer makes a few prompts equal.
    totals = range(max(1, counts["train"] - HELD_OUT_SHARE), counts["train"] + 1)
    held_out = {total: max(1, total // HELD_OUT_SHARE) for total in totals}
    counts |= dict.fromkeys(missing, held_out[counts["train"]])
    counts["train"] = max(total - tenth * len(missing) for total, tenth in held_out.items())
    return counts
