"""The built-in tasks by name. A new task is one module and one line of the tables below."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ..messages import unknown_name
from .task import SPLITS, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .puzzle import PuzzleTask

__all__ = ["PUBLIC_TASKS", "TASKS", "TEXT_TASKS", "built_in_task", "get_task", "text_task_lengths", "text_task_sizes"]

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
# Tasks in the words of a pretrained policy; without its tokenizer they have no tokens.
_TEXT_REGISTRY = {
    "addition": ("arithmetic", "AdditionTask"),
    "sums": ("arithmetic", "SumsTask"),
}
TEXT_TASKS = tuple(_TEXT_REGISTRY)
# Kinds of tasks in texts that other packages make; their settings say which one.
PUBLIC_TASKS = ("reasoning-gym", "dataset", "verifiers")


def get_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None, end_ids: Sequence[int] | None = None) -> Task:
    """A built-in task.

    Args:
        name: One of `TASKS` or `TEXT_TASKS`.
        tokenizer: Tokenizer of the policy. A task of `TASKS` needs one token for each of its words; where the tokenizer
            is left out, it has its own word-level one, which the built-in bases use. A task of `TEXT_TASKS` takes any.
        end_ids: For a task of `TEXT_TASKS`, the tokens that end a response; unset: the tokenizer's end token.

    Returns:
        The task, with prompts and responses in the ids of that tokenizer.

    Raises:
        ValueError: The name is unknown, a word of the task is not a single token of the tokenizer, or a task of
            `TEXT_TASKS` got no tokenizer.

    >>> task = get_task("path")
    >>> prompt = task.prompts("test")[0]
    >>> prompt.text, len(task.solutions(prompt.ids))
    ('60 89 67 73 :', 84)
    """
    if name in _TEXT_REGISTRY:
        if tokenizer is None:
            raise ValueError(
                f"task {name}: expected the tokenizer of a policy, got none; pass get_task({name!r}, tokenizer)"
            )
        text_task: Task = _class_of(_TEXT_REGISTRY[name])(tokenizer, end_ids)
        return text_task
    if name not in _REGISTRY:
        raise ValueError(unknown_name("task", name, (*TASKS, *TEXT_TASKS)))
    return built_in_task(name, tokenizer)


def built_in_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> PuzzleTask[Any]:
    """A task of `TASKS` with what it has beyond a `Task`: its words, and the text that bases are pretrained on."""
    return cast("PuzzleTask[Any]", _class_of(_REGISTRY[name])(tokenizer))


def text_task_sizes(name: str) -> dict[str, int]:
    """The number of prompts of each split of a task of `TEXT_TASKS`."""
    return dict(_class_of(_TEXT_REGISTRY[name]).split_sizes)


def text_task_lengths(name: str) -> tuple[int, int]:
    """Characters of the longest prompt and of the longest correct response of a task of `TEXT_TASKS`, its end counted
    as one: at least as many as its tokens, whatever the tokenizer."""
    texts = [pair for split in SPLITS for pair in _class_of(_TEXT_REGISTRY[name]).texts(split)]
    return max(len(prompt) for prompt, _ in texts), 1 + max(len(answer) for _, answers in texts for answer in answers)


def _class_of(entry: tuple[str, str]) -> Any:
    module, class_name = entry
    return getattr(importlib.import_module(f".{module}", __package__), class_name)
