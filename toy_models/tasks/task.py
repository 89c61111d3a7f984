"""What a task with a verifiable reward is, and what one of its prompts is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..verifiers.verifier import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SPLITS", "Prompt", "Task", "mode_prefix", "prompt_hash", "verify_all"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a split, as token ids and as text.

    Attributes:
        prompt_id: Its name in records, `prompt_hash(ids)`.
        ids: Token ids, without padding.
        text: The same as text.
        split: "train", "validation" or "test".
        answer: The reference answer; None for a task whose prompts have several correct answers.
    """

    prompt_id: str
    ids: tuple[int, ...]
    text: str
    split: str
    answer: str | None


class Task(Protocol):
    """Prompts in disjoint splits, a verifier and, where possible, every correct response.

    Any object with these members is a task; it need not inherit from this class. This one asks for sums of two digits:

    >>> from toy_models import Policy, Prompt, Task, Verdict, prompt_hash, word_tokenizer
    >>> class Sums:
    ...     name = "sums"
    ...     max_new_tokens = 2  # the sum and the end token
    ...     tokenizer = word_tokenizer(["<pad>", "$", "+", "=", *map(str, range(19))], pad="<pad>", eos="$")
    ...
    ...     def prompts(self, split):
    ...         texts = [f"{a} + {b} =" for a in range(10) for b in range(10)]
    ...         part = {"train": texts[::2], "validation": texts[1::4], "test": texts[3::4]}[split]
    ...         return [self._prompt(tuple(self.tokenizer.encode(text)), text, split) for text in part]
    ...
    ...     def _prompt(self, ids, text, split):
    ...         return Prompt(prompt_hash(ids), ids, text, split, answer=None)
    ...
    ...     def solutions(self, prompt_ids):
    ...         a, _, b, _ = self.tokenizer.decode(prompt_ids).split()
    ...         return [tuple(self.tokenizer.encode(f"{int(a) + int(b)} $"))]
    ...
    ...     def verify(self, prompt_ids, response_ids):
    ...         correct = tuple(response_ids) in self.solutions(prompt_ids)
    ...         return Verdict(correct, "correct" if correct else "wrong sum")
    >>> task: Task = Sums()
    >>> prompt = task.prompts("test")[0]
    >>> prompt.text, task.tokenizer.decode(task.solutions(prompt.ids)[0])
    ('0 + 3 =', '3 $')
    >>> task.verify(prompt.ids, task.tokenizer.encode("4 $"))
    Verdict(correct=False, reason='wrong sum', score=None)

    Prompts and responses are sequences of token ids without padding. A response includes its end token if it has one;
    a response without one was cut off at the greatest length. Verdicts must depend on the prompt and the response only.

    Two members are optional:

    - `verify_many(prompts, responses) -> list[Verdict]` judges many responses at once, one for each prompt, with the
      same verdicts as `verify`. It is used where it exists, so a slow verifier can work in parallel (`verify_all`).
    - `mode_prefix: tuple[int, ...]` are the tokens that every response of one mode begins with, for a task whose
      correct responses come in two modes. Evaluations then report how often the policy enters that mode.
    """

    @property
    def name(self) -> str:
        """Name of the task in records."""

    @property
    def max_new_tokens(self) -> int:
        """The greatest length of a response, end token included; no correct response is longer."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose ids prompts and responses are written in; it has an end token."""

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of "train", "validation" or "test", in a fixed order, so that `[:n]` is always the same subset.

        No prompt may be in two splits.
        """

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge one response."""

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]] | None:
        """Every correct response, end token included; None where they cannot be listed.

        Where they can be, success probabilities and Pass@k are exact; otherwise they are estimated from samples.
        """


def verify_all(task: Task, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
    """Judge one response to each prompt, with the `verify_many` of the task where it has one.

    Args:
        task: The task that the prompts are from.
        prompts: Token ids of each prompt.
        responses: Token ids of the response to each, end token included where it has one.

    Returns:
        One verdict for each response, in their order.

    Raises:
        ValueError: `verify_many` returns another number of verdicts.
        RuntimeError: The task calls exit(), which would end the program as if it had succeeded.
    """
    many = getattr(task, "verify_many", None)
    prompt, response = None, None
    try:
        if many is None:
            verdicts: list[Verdict] = []
            for prompt, response in zip(prompts, responses, strict=True):
                verdicts.append(task.verify(prompt, response))
            return verdicts
        verdicts = many(prompts, responses)
    except SystemExit as error:
        case = "" if prompt is None else f" for the prompt {list(prompt)} and the response {list(response or ())}"
        raise RuntimeError(
            f"task {task.name}: expected a verdict{case}, but it called exit({error.code!r}); return a Verdict instead"
        ) from error
    if len(verdicts) != len(responses):
        raise ValueError(
            f"task {task.name}: expected {len(responses)} verdicts from verify_many, got {len(verdicts)}; "
            "return one for each response, in their order"
        )
    return verdicts


def mode_prefix(task: Task) -> tuple[int, ...] | None:
    """The tokens that responses in the named mode of a task begin with; None for a task that names no mode."""
    prefix: tuple[int, ...] | None = getattr(task, "mode_prefix", None)
    return prefix


def prompt_hash(ids: Iterable[int]) -> str:
    """The name of a prompt in records: the first 16 hex digits of the SHA-256 of its token ids.

    Args:
        ids: Token ids of the prompt, without padding.

    Returns:
        The same name for the same ids, in every process and version.

    >>> prompt_hash([1, 2, 3])
    '8a6ae15122001229'
    """
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]
