"""The task `file`: prompts and answers from your files, judged as text by a verifier.

A prompt is the file's text as the tokenizer encodes it, without special tokens, and without a chat template or a start
token (BOS) unless these are chosen. The verifier sees the file's text, the decoded response without special tokens, and
the answer. Correct responses cannot be listed, so success probabilities are estimated from samples.

A split without a file gets a tenth of the training file, at least one prompt. The prompts are ordered by the SHA-256 of
their tokens; the first tenth is the test split, the next one the validation split. The split of a prompt therefore
depends neither on the order of the file nor on a seed. Lines that repeat a prompt with the same answer count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..end_tokens import end_tokens, without_end
from ..messages import unknown_name
from ..table_files import Row, read_table
from ..verifiers.accepted_answers import accepted_answer, judge_accepted
from ..verifiers.verifier import Case, Verdict, Verifier, VerifierError
from .start_tokens import required_start, with_start
from .task import SPLITS, Prompt, prompt_hash
from .texts import chat_messages, check_template, encode_text, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FILE_TASK", "DataFiles", "FileTask"]

FILE_TASK = "file"
HELD_OUT_SHARE = 10  # a split without a file gets one prompt in ten


@dataclass(frozen=True)
class DataFiles:
    """The files of a `FileTask`: JSON Lines or Parquet (`.parquet`), and the names of their columns.

    Attributes:
        train: File of the training prompts.
        validation: File of the validation prompts; a tenth of the training prompts where it is left out.
        test: File of the test prompts; likewise.
        prompt_column: Column of the prompts, each a text or a list of chat messages. `a.b` is entry b of column a.
        answer_column: Column of the reference answers; of a list of accepted answers any one is right.
    """

    train: str | Path
    validation: str | Path | None = None
    test: str | Path | None = None
    prompt_column: str = "prompt"
    answer_column: str = "answer"

    def read(self) -> dict[str, list[Row]]:
        """The rows of each split that has a file.

        Raises:
            ValueError: A file cannot be read or is empty, or a line is broken; the message names it.
        """
        rows = {}
        for split in SPLITS:
            if (path := getattr(self, split)) is not None:
                rows[split] = read_table(path, [self.prompt_column, self.answer_column])
                if not rows[split]:
                    raise ValueError(
                        f"{path}: expected a prompt and an answer in each line, got an empty file; add some"
                    )
                for row in rows[split]:
                    self.messages(row)
        return rows

    def messages(self, row: Row) -> list[dict[str, str]]:
        """The prompt of a row as chat messages; a text is one message of the user."""
        return chat_messages(row.values[self.prompt_column], row.where, self.prompt_column)


@dataclass(frozen=True)
class _Item:
    """One prompt, its answer, and its place in a file."""

    ids: tuple[int, ...]
    rendered: str
    question: str
    answer: str
    where: str


@dataclass
class FileTask:
    """A task from files: prompts with one reference answer each, judged by a verifier.

    Raises ValueError, naming the line, where a file is invalid (`DataFiles.read`), a prompt cannot be encoded, a prompt
    has two answers or is in the files of two splits, too few prompts are left to hold some out, or the tokenizer lacks
    the chat template or the start token that is needed.

    Attributes:
        tokenizer: Tokenizer of the policy.
        files: Where prompts and answers are.
        verifier: Judges responses as text (see `get_verifier`).
        max_new_tokens: Greatest length of a response.
        chat_template: Whether prompts are put into the chat template of the tokenizer, up to where the answer begins.
        name: Name of the task in records.
        end_ids: The tokens that end a response (`Policy.end_ids`); None for the tokenizer's end token alone.
        bos: Whether each prompt begins with the tokenizer's start token; once, where a template writes it, too.

    Example::

        from toy_models.verifiers import get_verifier

        task = FileTask(tokenizer, DataFiles("train.jsonl"), get_verifier("exact"), max_new_tokens=64)
    """

    tokenizer: PreTrainedTokenizerBase
    files: DataFiles
    verifier: Verifier
    max_new_tokens: int
    chat_template: bool = False
    name: str = FILE_TASK
    end_ids: tuple[int, ...] | None = None
    bos: bool = False
    _start: tuple[int, ...] = field(init=False, repr=False)
    _splits: dict[str, list[_Item]] = field(init=False, repr=False)
    _items: dict[tuple[int, ...], _Item] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.chat_template:
            check_template(self.tokenizer)
        self._start = required_start(self.tokenizer) if self.bos else ()
        self._items = {}
        self._splits = {}
        for split, rows in self.files.read().items():
            self._splits[split] = self._distinct(rows)
        missing = [split for split in reversed(SPLITS) if split not in self._splits]
        train = self._splits["train"]
        tenth = max(1, len(train) // HELD_OUT_SHARE)
        if len(train) <= tenth * len(missing):
            raise ValueError(
                f"{self.files.train}: expected more than {tenth * len(missing)} prompts, to hold some out for "
                f"{' and '.join(reversed(missing))}, got {len(train)}; add prompts, or files for those splits"
            )
        by_hash = sorted(train, key=lambda item: prompt_hash(item.ids))
        for i, split in enumerate(missing):
            self._splits[split] = by_hash[i * tenth : (i + 1) * tenth]
        held_out = {item.ids for item in by_hash[: len(missing) * tenth]}
        self._splits["train"] = [item for item in train if item.ids not in held_out]

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split in the order of their file; prompts held out of the training file by hash."""
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        return [
            Prompt(prompt_hash(item.ids), item.ids, item.rendered, split, item.answer) for item in self._splits[split]
        ]

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge one response. Raises ValueError for a prompt that is not in the files."""
        return self.verify_many([prompt_ids], [response_ids])[0]

    def verify_many(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
        """Judge one response to each of the prompts, all together.

        Raises VerifierError, naming the line of the prompt, where the verifier fails.
        """
        try:
            return judge_accepted(self.verifier, [self._case(*pair) for pair in zip(prompts, responses, strict=True)])
        except VerifierError as error:
            if error.index is None:
                raise
            where = self._items[tuple(int(i) for i in prompts[error.index])].where
            raise VerifierError(f"{where}: {error}", error.index) from error

    def solutions(self, prompt_ids: Sequence[int]) -> None:
        """None: they cannot be listed."""
        return None

    def _case(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Case:
        item = self._items.get(tuple(int(i) for i in prompt_ids))
        if item is None:
            raise ValueError(
                f"prompt_ids: expected a prompt of {self.files.train} or of the other files, got "
                f"{self.tokenizer.decode(list(prompt_ids))!r}"
            )
        ids = [int(i) for i in response_ids]
        ends = end_tokens(self.tokenizer) if self.end_ids is None else self.end_ids
        body = list(without_end(ids, ends))  # an end token need not be a special token, which decoding leaves out
        text = str(self.tokenizer.decode(body, skip_special_tokens=True))
        return Case(item.question, text, item.answer, len(body) < len(ids))

    def _distinct(self, rows: Sequence[Row]) -> list[_Item]:
        items: dict[tuple[int, ...], _Item] = {}
        for row in rows:
            item = self._item(row)
            same = items.get(item.ids)
            if same is not None and same.answer != item.answer:
                raise ValueError(
                    f"{row.where}: expected the answer {same.answer!r} of {same.where}, which has the same prompt, got "
                    f"{item.answer!r}; keep one of the two"
                )
            if same is None and item.ids in self._items:
                raise ValueError(
                    f"{row.where}: expected a prompt of one split only, got that of {self._items[item.ids].where}; "
                    "remove one of them, since training must not see held-out prompts"
                )
            items.setdefault(item.ids, item)
        self._items |= items
        return list(items.values())

    def _item(self, row: Row) -> _Item:
        column = self.files.prompt_column
        question, rendered = render_prompt(
            self.tokenizer, row.values[column], row.where, column, chat_template=self.chat_template
        )
        ids = with_start(encode_text(self.tokenizer, rendered, row.where), self._start)
        answer = accepted_answer(row.values[self.files.answer_column])
        return _Item(ids, rendered, question, answer, row.where)
