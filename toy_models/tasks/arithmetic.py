"""Arithmetic in text for pretrained language models, with every correct response listed.

`addition` asks for the sum of two numbers after two examples and has one correct answer; `sums` asks for two numbers
with a given sum after four examples, and has many:

    12 + 15 = 27          9 = 2 + 7
    31 + 24 = 55          17 = 11 + 6
    38 + 47 =             …
                          13 =

A response is correct if it is one of the listed token sequences: a space and the answer as the tokenizer encodes them,
then an end token of the policy. Its success probability is therefore exact. Where the tokenizer writes each digit as a
token of its own, as that of SmolLM2 does, an answer has no other encoding; elsewhere other encodings of the same text
count as wrong.

Base models go on after the answer with another line, so the policy should end responses at a line break
(`policy.end_tokens`).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ..end_tokens import end_tokens, without_end
from ..messages import unknown_name
from ..verifiers.verifier import Verdict
from .task import SPLITS, Prompt, prompt_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AdditionTask", "SumsTask"]

Example = tuple[str, list[str]]  # what stands before "=", and every correct text after it

# Independent of every seed of a run: which prompts are held out must never depend on an experiment.
_SEED = 20261129


class _ArithmeticTask(ABC):
    """Questions in splits, each after some examples.

    Args:
        tokenizer: Tokenizer of the policy.
        end_ids: The tokens that end a response; the tokenizer's end token where it is left out.

    Raises:
        ValueError: There is no token that ends a response.
    """

    name: ClassVar[str]
    split_sizes: ClassVar[dict[str, int]] = {"train": 512, "validation": 64, "test": 128}

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self._ends = tuple(end_tokens(tokenizer) if end_ids is None else end_ids)
        if not self._ends:
            raise ValueError(
                f"task {self.name}: expected a token that ends a response, got a tokenizer whose eos_token is None; "
                "set policy.end_tokens"
            )

    @classmethod
    @abstractmethod
    def _questions(cls, split: str, rng: random.Random, count: int) -> list[Example]:
        """`count` questions of a split with their answers; no question is in two splits."""

    @classmethod
    @abstractmethod
    def _examples(cls, rng: random.Random) -> list[str]:
        """Lines that show what is asked for."""

    @property
    def max_new_tokens(self) -> int:
        """The greatest length of a correct response of the task, end token included."""
        return max(len(solution) for solutions in self._solutions.values() for solution in solutions)

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split, in a fixed order. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        return self._prompts[split]

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Every correct response, with each end token. Raises ValueError for a prompt that is not of this task."""
        ids = tuple(int(i) for i in prompt_ids)
        if ids not in self._solutions:
            raise ValueError(
                f"prompt_ids: expected a prompt of the task {self.name}, got {self.tokenizer.decode(list(ids))!r}"
            )
        return self._solutions[ids]

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge one response. Raises ValueError for a prompt that is not of this task."""
        response = tuple(int(i) for i in response_ids)
        if response in self.solutions(prompt_ids):
            return Verdict(True, "correct")
        if len(without_end(response, self._ends)) == len(response):
            return Verdict(False, "cut off")
        return Verdict(False, "wrong")

    @classmethod
    def texts(cls, split: str) -> list[tuple[str, list[str]]]:
        """Each prompt of a split with its correct answers, without the token that ends them. Needs no tokenizer."""
        rng = random.Random(f"{_SEED} {cls.name} {split}")
        found = []
        for asked, answers in cls._questions(split, rng, cls.split_sizes[split]):
            lines = "".join(f"{line}\n" for line in cls._examples(rng))
            found.append((f"{lines}{asked} =", [f" {answer}" for answer in answers]))
        return found

    @cached_property
    def _made(self) -> dict[str, list[tuple[Prompt, list[tuple[int, ...]]]]]:
        return {split: [self._prompt(split, *texts) for texts in self.texts(split)] for split in SPLITS}

    def _prompt(self, split: str, text: str, answers: list[str]) -> tuple[Prompt, list[tuple[int, ...]]]:
        ids, bodies = self._encode(text), map(self._encode, answers)
        solutions = [(*body, end) for body in bodies for end in self._ends]
        return Prompt(prompt_hash(ids), ids, text, split, answers[0].strip() if len(answers) == 1 else None), solutions

    @cached_property
    def _prompts(self) -> dict[str, list[Prompt]]:
        return {split: [prompt for prompt, _ in made] for split, made in self._made.items()}

    @cached_property
    def _solutions(self) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
        return {prompt.ids: solutions for made in self._made.values() for prompt, solutions in made}

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


class AdditionTask(_ArithmeticTask):
    """The sum of two numbers from 10 to 49 each, after two examples that are the same for all: one correct answer."""

    name = "addition"

    @classmethod
    def _questions(cls, split: str, rng: random.Random, count: int) -> list[Example]:
        pairs = [(a, b) for a in range(10, 50) for b in range(10, 50)]
        random.Random(_SEED).shuffle(pairs)
        skipped = sum(cls.split_sizes[earlier] for earlier in SPLITS[: SPLITS.index(split)])
        return [(f"{a} + {b}", [str(a + b)]) for a, b in pairs[skipped : skipped + count]]

    @classmethod
    def _examples(cls, rng: random.Random) -> list[str]:
        return ["12 + 15 = 27", "31 + 24 = 55"]


class SumsTask(_ArithmeticTask):
    """Two positive numbers with a given sum from 5 to 20, after four examples that are drawn for each prompt.

    A prompt has 4 to 19 correct answers; a + b and b + a are two. The sums of the three splits are different numbers:
    8 for training, 3 for validation and 5 for the test; prompts of one sum differ in their examples.
    """

    name = "sums"

    @classmethod
    def _questions(cls, split: str, rng: random.Random, count: int) -> list[Example]:
        totals = list(range(5, 21))
        random.Random(_SEED).shuffle(totals)
        of_split = {"train": totals[:8], "validation": totals[8:11], "test": totals[11:]}[split]
        asked = [of_split[i % len(of_split)] for i in range(count)]
        return [(str(total), [f"{a} + {total - a}" for a in range(1, total)]) for total in asked]

    @classmethod
    def _examples(cls, rng: random.Random) -> list[str]:
        totals = [rng.randint(5, 20) for _ in range(4)]
        firsts = [rng.randint(1, total - 1) for total in totals]
        return [f"{total} = {a} + {total - a}" for total, a in zip(totals, firsts, strict=True)]
