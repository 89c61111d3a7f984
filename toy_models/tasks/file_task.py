"""The task «file»: prompts and answers from files of the user's own, judged as text by a verifier.

A prompt is what the tokenizer makes of the file's text: no special token is added, and no template unless asked for.
The verifier sees the file's text, the decoded response without special tokens, and the answer. Correct responses are
not enumerated, so success probabilities are estimated from samples.

A split without a file of its own gets a tenth of the training file (at least one prompt): its prompts ordered by the
SHA-256 of their tokens, the first tenth is the test split, the next one the validation split. So a prompt's place does
not depend on the order of the file, nor on any seed. Lines that repeat a prompt with the same answer count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..messages import unknown_name
from ..table_files import Row, read_table
from ..verifiers.verifier import Case, Verdict, Verifier
from .task import SPLITS, Prompt, prompt_hash
from .texts import chat_messages, check_template, encode_text, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FILE_TASK", "DataFiles", "FileTask"]

FILE_TASK = "file"
HELD_OUT_SHARE = 10  # one prompt in so many for each split that has no file


@dataclass(frozen=True)
class DataFiles:
    """Where prompts and answers stand: JSON Lines or Parquet, and which columns."""

    train: str | Path
    validation: str | Path | None = None
    test: str | Path | None = None
    prompt_column: str = "prompt"
    answer_column: str = "answer"

    def read(self) -> dict[str, list[Row]]:
        """The rows of each split that has a file. Raises ValueError naming the line that is broken or empty."""
        rows = {}
        for split in SPLITS:
            if (path := getattr(self, split)) is not None:
                rows[split] = read_table(path, [self.prompt_column, self.answer_column])
                if not rows[split]:
                    raise ValueError(f"{path} has no rows; expected a prompt and an answer in each line")
                for row in rows[split]:
                    self.messages(row)
        return rows

    def messages(self, row: Row) -> list[dict[str, str]]:
        """The prompt as chat messages: a string is what the user says."""
        return chat_messages(row.values[self.prompt_column], row.where, self.prompt_column)


@dataclass(frozen=True)
class _Item:
    """One prompt: what it reads, its answer, and where it was found."""

    ids: tuple[int, ...]
    rendered: str
    question: str
    answer: str
    where: str


@dataclass
class FileTask:
    """See the module. `chat_template` puts each prompt into the tokenizer's template, ending where the answer begins.

    Raises ValueError, naming the line, for what `DataFiles.read` refuses, a prompt that the tokenizer cannot encode or
    makes nothing of, a prompt with two answers, one of two splits' files, too few prompts to hold some out, and a
    tokenizer without a template where one is asked for.
    """

    tokenizer: PreTrainedTokenizerBase
    files: DataFiles
    verifier: Verifier
    max_new_tokens: int
    chat_template: bool = False
    name: str = FILE_TASK
    _splits: dict[str, list[_Item]] = field(init=False, repr=False)
    _items: dict[tuple[int, ...], _Item] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.chat_template:
            check_template(self.tokenizer)
        self._items = {}
        self._splits = {}
        for split, rows in self.files.read().items():
            self._splits[split] = self._distinct(rows)
        missing = [split for split in reversed(SPLITS) if split not in self._splits]
        train = self._splits["train"]
        tenth = max(1, len(train) // HELD_OUT_SHARE)
        if len(train) <= tenth * len(missing):
            raise ValueError(
                f"{self.files.train} has {len(train)} prompts, too few to hold some out for "
                f"{' and '.join(reversed(missing))}; add prompts, or files for those splits"
            )
        by_hash = sorted(train, key=lambda item: prompt_hash(item.ids))
        for i, split in enumerate(missing):
            self._splits[split] = by_hash[i * tenth : (i + 1) * tenth]
        held_out = {item.ids for item in by_hash[: len(missing) * tenth]}
        self._splits["train"] = [item for item in train if item.ids not in held_out]

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split: in the file's order, those held out of the training file in that of their hash."""
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        return [
            Prompt(prompt_hash(item.ids), item.ids, item.rendered, split, item.answer) for item in self._splits[split]
        ]

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge one response. Raises ValueError for a prompt that is not of the files."""
        return self.verify_many([prompt_ids], [response_ids])[0]

    def verify_many(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
        """Judge one response to each of the prompts, together."""
        return self.verifier.judge([self._case(*pair) for pair in zip(prompts, responses, strict=True)])

    def solutions(self, prompt_ids: Sequence[int]) -> None:
        """None: they cannot be enumerated."""
        return None

    def _case(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Case:
        item = self._items.get(tuple(int(i) for i in prompt_ids))
        if item is None:
            raise ValueError(
                f"prompt_ids: expected a prompt of {self.files.train}, or of the other files, got "
                f"{self.tokenizer.decode(list(prompt_ids))!r}"
            )
        finished = len(response_ids) > 0 and int(response_ids[-1]) == self.tokenizer.eos_token_id
        text = str(self.tokenizer.decode([int(i) for i in response_ids], skip_special_tokens=True))
        return Case(item.question, text, item.answer, finished)

    def _distinct(self, rows: Sequence[Row]) -> list[_Item]:
        found: dict[tuple[int, ...], _Item] = {}
        for row in rows:
            item = self._item(row)
            same = found.get(item.ids)
            if same is not None and same.answer != item.answer:
                raise ValueError(
                    f"{row.where} asks what {same.where} asks, with another answer: {item.answer!r} and "
                    f"{same.answer!r}; keep one of them"
                )
            if same is None and item.ids in self._items:
                raise ValueError(
                    f"{row.where} asks what {self._items[item.ids].where} asks; a prompt may stand in the "
                    "file of one split only, or what is held out is trained on"
                )
            found.setdefault(item.ids, item)
        self._items |= found
        return list(found.values())

    def _item(self, row: Row) -> _Item:
        column = self.files.prompt_column
        question, rendered = render_prompt(
            self.tokenizer, row.values[column], row.where, column, chat_template=self.chat_template
        )
        ids = encode_text(self.tokenizer, rendered, row.where)
        answer = row.text(self.files.answer_column)
        return _Item(ids, rendered, question, answer, row.where)
