"""The correct responses of a task's prompts, listed once for all evaluations of a run, with their prefix trees.

A task lists its correct responses in Python, anew at every call. They depend on the prompt alone, so that a run that is
evaluated several times need not ask again; what is kept is bounded by the prompts that it is evaluated on.
"""

from __future__ import annotations

from collections.abc import Sequence

from toy_models.tasks.task import Prompt, Task, mode_prefix

from .enumeration import check_responses
from .prefix_trees import PrefixTrees

__all__ = ["KnownSolutions"]

Solutions = list[tuple[int, ...]] | None


class KnownSolutions:
    """Correct responses by prompt, and prefix trees by list of prompts.

    Example:
        >>> from toy_models import get_task
        >>> task = get_task("path-small")
        >>> known, prompt = KnownSolutions(task), task.prompts("test")[0]
        >>> known.of(prompt) == task.solutions(prompt.ids), known.of(prompt) is known.of(prompt)
        (True, True)
    """

    def __init__(self, task: Task) -> None:
        """`task` lists the responses; they must depend on the prompt alone, as a task's do."""
        self._task = task
        self._of: dict[tuple[int, ...], Solutions] = {}
        self._trees: dict[tuple[int, tuple[tuple[int, ...], ...]], PrefixTrees] = {}

    def of(self, prompt: Prompt) -> Solutions:
        """Every correct response to a prompt; None where the task cannot list them."""
        if prompt.ids not in self._of:
            self._of[prompt.ids] = self._task.solutions(prompt.ids)
        return self._of[prompt.ids]

    def trees(self, prompts: Sequence[Prompt], max_rows: int) -> PrefixTrees:
        """The prefix trees of the correct responses of all prompts.

        Where the task names a mode its opening is walked along with the responses, as one more of them: the last.
        """
        key = max_rows, tuple(prompt.ids for prompt in prompts)
        if key not in self._trees:
            prefix = mode_prefix(self._task)
            walked = [[*(self.of(prompt) or []), *([prefix] if prefix else [])] for prompt in prompts]
            check_responses(key[1], walked, max_rows)
            self._trees[key] = PrefixTrees(key[1], walked, max_rows)
        return self._trees[key]
