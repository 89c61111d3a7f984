"""The built-in tasks by name. A new task is one module and one line of the table below."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from ..messages import unknown_name
from .task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .puzzle import PuzzleTask

__all__ = ["TASKS", "built_in_task", "get_task"]

# name -> (module, class); the class is imported when it is needed
_REGISTRY = {
    "path": ("path", "PathTask"),
    "path-small": ("path", "SmallPathTask"),
    "countdown": ("countdown", "CountdownTask"),
    "countdown-small": ("countdown", "SmallCountdownTask"),
    "two-modes": ("two_modes", "TwoModesTask"),
    "two-modes-small": ("two_modes", "SmallTwoModesTask"),
}
TASKS = tuple(_REGISTRY)  # names of the built-in tasks


def get_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> Task:
    """A built-in task.

    Args:
        name: One of `TASKS`.
        tokenizer: Tokenizer of the policy, which must have one token for each word of the task. Where it is left out,
            the task has its own word-level tokenizer, the one that the built-in bases use.

    Returns:
        The task, with prompts and responses in the ids of that tokenizer.

    Raises:
        ValueError: The name is unknown, or a word of the task is not a single token of the tokenizer.

    >>> task = get_task("path")
    >>> prompt = task.prompts("test")[0]
    >>> prompt.text, len(task.solutions(prompt.ids))
    ('60 89 67 73 :', 84)
    """
    if name not in _REGISTRY:
        raise ValueError(unknown_name("task", name, TASKS))
    return built_in_task(name, tokenizer)


def built_in_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> PuzzleTask[Any]:
    """A task of `TASKS` with what it has beyond a `Task`: its words, and the text that bases are pretrained on."""
    module, class_name = _REGISTRY[name]
    task_class = getattr(importlib.import_module(f".{module}", __package__), class_name)
    return cast("PuzzleTask[Any]", task_class(tokenizer))
