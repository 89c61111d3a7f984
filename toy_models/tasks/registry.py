"""The built-in tasks by name. A new task is one module and one line of the table below."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from ..messages import unknown_name
from .task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .puzzle import PuzzleTask

__all__ = ["TASKS", "built_in_task", "get_task"]

# name -> (module, class); the class is imported when it is asked for
_REGISTRY = {
    "path": ("path", "PathTask"),
    "path-small": ("path", "SmallPathTask"),
    "countdown": ("countdown", "CountdownTask"),
    "countdown-small": ("countdown", "SmallCountdownTask"),
    "two-modes": ("two_modes", "TwoModesTask"),
    "two-modes-small": ("two_modes", "SmallTwoModesTask"),
}
TASKS = tuple(_REGISTRY)


def get_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> Task:
    """The task of that name, in its own tokens or in those of a matching `tokenizer`.

    Raises ValueError for an unknown name, and for a tokenizer in which a word of the task is not one token.
    """
    if name not in _REGISTRY:
        raise ValueError(unknown_name("task", name, TASKS))
    return built_in_task(name, tokenizer)


def built_in_task(name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> PuzzleTask:
    """A task of `TASKS` with all that it has beyond a `Task`: the words, and the text that bases are pretrained on."""
    module, cls = _REGISTRY[name]
    return cast("PuzzleTask", getattr(importlib.import_module(f".{module}", __package__), cls)(tokenizer))
