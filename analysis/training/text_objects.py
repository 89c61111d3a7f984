"""Tasks in texts that were passed to `run(…, task=…)`: their identity, and the task in the tokens of the policy.

The identity counts the name, every item of each split, the verifier that the task names and the code of its class.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from toy_models.end_tokens import policy_end_tokens
from toy_models.tasks.encoded_task import EncodedTask
from toy_models.tasks.task import SPLITS
from toy_models.tasks.text_task import ResponseText, TextItem, TextTask, is_text_task
from toy_models.verifiers.scores import scored_verdict

from ..common.identity import text_digest
from ..errors import UsageError
from ..recipes.config import UNSET
from ..recipes.fields import RunConfig
from ..recipes.recipe import Recipe
from .object_digest import object_digest

__all__ = ["TEXT_FIELDS", "encoded_text_task", "lists_solutions", "text_task_identity", "values_of"]

TEXT_FIELDS = ("task.chat_template", "task.bos", "task.threshold", "task.verifier_errors")
_SHOWN = 80  # characters of a value in a message


def values_of(recipe: Recipe, field: str) -> set[Any]:
    """Every value that a recipe, its methods and its grid give to a field; UNSET where one gives none."""
    named = {values.get(field, UNSET) for values in (recipe.values, *(method.values for method in recipe.methods))}
    return named | set(recipe.grid.get(field, ()))


def text_task_identity(task: TextTask, recipe: Recipe) -> dict[str, Any]:
    """What identifies a task in texts, as plain data.

    Raises:
        UsageError: Items that are none, a score that fails on an empty response, a recipe without
            rollout.max_new_tokens.
    """
    if values_of(recipe, "rollout.max_new_tokens") <= {UNSET, None}:
        raise UsageError(
            f"rollout.max_new_tokens: expected the length of the longest response to the task {task.name}, got none; "
            "a task in texts has no longest response, so set it in the recipe"
        )
    content, first = hashlib.sha256(), None
    for split in SPLITS:
        items = task.items(split)
        for item in () if items is None else items:
            if not isinstance(item, TextItem):
                raise UsageError(
                    f"task.items({split!r}): expected toy_models.TextItem objects, got {type(item).__name__} "
                    f"{str(item)[:_SHOWN]!r}"
                )
            first = first or item
            parts = (split, item.id, item.prompt, item.reference, item.columns)
            content.update(json.dumps(parts, sort_keys=True, default=repr, ensure_ascii=True).encode())
    if first is None:
        raise UsageError("task.items('train'): expected at least one item, got none")
    if values_of(recipe, "task.verifier_errors") <= {UNSET, "stop"}:
        _try_score(task, first)
    return {
        "name": task.name,
        "items": content.hexdigest(),
        "verifier": text_digest(getattr(getattr(task, "verifier", None), "identity", None)),
        "code": object_digest(task),
    }


def lists_solutions(task: Any) -> bool:
    """Whether a task, in texts or in tokens, lists the correct responses to its first training prompt."""
    if not is_text_task(task):
        return task.solutions(task.prompts("train")[0].ids) is not None
    return hasattr(task, "solutions") and task.solutions(next(iter(task.items("train")))) is not None


def encoded_text_task(config: RunConfig, task: TextTask, policy: Any) -> EncodedTask:
    """The task in the tokens of the policy, as the recipe says. Raises ValueError as `EncodedTask` does."""
    if config.rollout.max_new_tokens is None:
        raise UsageError(
            f"rollout.max_new_tokens: expected the length of the longest response to the task {task.name}, got none"
        )
    fields = config.task
    encoded = EncodedTask(
        policy.tokenizer,
        task,
        config.rollout.max_new_tokens,
        fields.chat_template,
        end_ids=policy_end_tokens(policy),
        bos=fields.bos,
        threshold=fields.threshold,
        errors=fields.verifier_errors,
    )
    known = encoded.identity["solutions"]
    if config.eval.samples == 0 and known != "listed":
        raise UsageError(
            f"eval.samples = 0: the correct responses to the task {task.name} are not known ({known}), so Pass@k is "
            "estimated from samples; set it to at least 1"
        )
    return encoded


def _try_score(task: TextTask, item: TextItem) -> None:
    """The score of an empty response, so that a broken function is found before anything is trained."""
    try:
        scored_verdict(task.score(item, ResponseText("")))
    except SystemExit as error:
        raise UsageError(
            f"task.score: expected a score of an empty response, but it called exit({error.code!r})"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"task.score: expected a score of an empty response to {item.id}, but it fails with "
            f"{type(error).__name__}: {error}; return 0 for a response that cannot be read, or set "
            'task.verifier_errors = "zero"'
        ) from error
