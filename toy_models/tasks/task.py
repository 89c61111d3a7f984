"""What a task with a verifiable reward is, and what a prompt of it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..verifiers.verifier import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "SPLITS",
    "Prompt",
    "Task",
    "mode_prefix",
    "prompt_hash",
    "verify_all",
]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a split, as token ids and as text."""

    prompt_id: str  # `prompt_hash(ids)`
    ids: tuple[int, ...]
    text: str
    split: str
    answer: str | None  # the reference answer, where a task has a single one


class Task(Protocol):
    """Prompts in disjoint splits, an exact verifier and, where feasible, every correct response.

    A task whose verifier is slow may have `verify_many(prompts, responses)` besides, which judges one response to each
    of the prompts (as token ids) and gives a list of verdicts, the same as `verify` one by one; see `verify_all`.

    A task whose responses come in two modes may name one of them: an attribute `mode_prefix`, the tokens that every
    response in it opens with. See `mode_prefix`.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_new_tokens(self) -> int:
        """Length of the longest correct response, end token included."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of "train", "validation" or "test" in a fixed order, so that `[:n]` is a stable subset."""

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge a response without padding, its end token included where it has one."""

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]] | None:
        """Every correct response, end token included; None where they cannot be enumerated."""


def verify_all(task: Task, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
    """Judge one response to each prompt: by the task's `verify_many` where it has one, else one after another."""
    many = getattr(task, "verify_many", None)
    if many is None:
        return [task.verify(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    verdicts: list[Verdict] = many(prompts, responses)
    if len(verdicts) != len(responses):
        raise ValueError(
            f"task {task.name}: verify_many was given {len(responses)} responses and gave {len(verdicts)} verdicts; "
            "it must give one for each, in order"
        )
    return verdicts


def mode_prefix(task: Task) -> tuple[int, ...] | None:
    """The tokens that responses in the task's named mode open with; None for a task that names none."""
    prefix: tuple[int, ...] | None = getattr(task, "mode_prefix", None)
    return prefix


def prompt_hash(ids: Iterable[int]) -> str:
    """Name of a prompt: the first 16 hex digits of the SHA-256 of its token ids.

    >>> prompt_hash([1, 2, 3])
    '8a6ae15122001229'
    """
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]
