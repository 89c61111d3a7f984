"""The task `file`: prompts and answers from your files, judged as text by a verifier.

How texts become prompts, and how splits without a file are held out, is that of `encoded_task`. The verifier sees the
file's text, the decoded response without special tokens, and the answer. Correct responses cannot be listed, so success
probabilities are estimated from samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..large_tables import LargeTable, count_distinct, open_table
from ..table_files import Row
from ..verifiers.accepted_answers import accepted_answer, judge_accepted
from ..verifiers.verifier import Case, Verdict, Verifier
from .encoded_task import EncodedTask
from .task import SPLITS
from .text_task import TextItem
from .texts import chat_messages, last_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FILE_TASK", "DataFiles", "FileTask", "ItemsOfRows", "JudgedItems"]

FILE_TASK = "file"


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

    def read(self, required: Sequence[str] = (), optional: Sequence[str] | None = ()) -> dict[str, Sequence[Row]]:
        """The rows of each split that has a file, with the columns of the prompt and the answer.

        Those of a large file are checked here and read when they are asked for (`large_tables`).

        Args:
            required: Further columns to read.
            optional: Those to read where a row has them; None for all.

        Raises:
            ValueError: A file cannot be read or is empty, or a line is broken or lacks a column; the message names it.
        """
        rows: dict[str, Sequence[Row]] = {}
        for split in SPLITS:
            if (path := getattr(self, split)) is not None:
                columns = [self.prompt_column, self.answer_column, *required]
                rows[split] = open_table(path, columns, optional)
                if not rows[split]:
                    raise ValueError(
                        f"{path}: expected a prompt and an answer in each line, got an empty file; add some"
                    )
                self.distinct_prompts(rows[split])
        return rows

    def distinct_prompts(self, rows: Sequence[Row]) -> int:
        """How many different prompts rows have, as they are written. Raises ValueError for a prompt that is none."""
        if isinstance(rows, LargeTable):
            return count_distinct(rows, self.messages)
        for row in rows:
            self.messages(row)
        return len({json.dumps(row.values[self.prompt_column], sort_keys=True) for row in rows})

    def messages(self, row: Row) -> list[dict[str, str]]:
        """The prompt of a row as chat messages; a text is one message of the user."""
        return chat_messages(row.values[self.prompt_column], row.where, self.prompt_column)

    def items(self, required: Sequence[str] = (), optional: Sequence[str] | None = ()) -> dict[str, Sequence[TextItem]]:
        """The same as items, named by their line. Raises ValueError as `read` does."""
        rows_of_splits = self.read(required, optional)
        return {split: ItemsOfRows(rows, self._item) for split, rows in rows_of_splits.items()}

    def _item(self, row: Row) -> TextItem:
        columns = {name: value for name, value in row.values.items() if name != self.prompt_column}
        return TextItem(row.where, row.values[self.prompt_column], row.values[self.answer_column], columns)


class ItemsOfRows(Sequence[TextItem]):
    """The items of rows, each made when it is asked for.

    Args:
        rows: The rows.
        item: The item of a row.

    Attributes:
        digest: Identity of the rows where they are those of a large file; None elsewhere.
    """

    def __init__(self, rows: Sequence[Any], item: Callable[[Any], TextItem]) -> None:
        self._rows, self._item = rows, item
        self.digest: str | None = getattr(rows, "digest", None)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> TextItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[TextItem]: ...
    def __getitem__(self, index: int | slice) -> TextItem | list[TextItem]:
        if isinstance(index, slice):
            return [self._item(row) for row in self._rows[index]]
        return self._item(self._rows[index])


class JudgedItems:
    """A task in texts whose responses a verifier judges by the references of the items.

    Args:
        name: Name of the task in records.
        items: The items of each split that has its own; "train" at least.
        verifier: Judges responses as text (see `get_verifier`).
    """

    def __init__(self, name: str, items: Mapping[str, Sequence[TextItem]], verifier: Verifier) -> None:
        self.name, self.verifier, self._items = name, verifier, items

    def items(self, split: str) -> Sequence[TextItem] | None:
        """The items of a split; None where it has none of its own."""
        return self._items.get(split)

    def score(self, item: TextItem, text: str) -> Verdict:
        """The verdict on one response."""
        return self.score_many([item], [text])[0]

    def score_many(self, items: Sequence[TextItem], texts: Sequence[str]) -> list[Verdict]:
        """The verdict on one response to each item. Raises VerifierError where the verifier fails."""
        return judge_accepted(self.verifier, [_case(*pair) for pair in zip(items, texts, strict=True)])


class FileTask(EncodedTask):
    """A task from files: prompts with one reference answer each, judged by a verifier.

    Args:
        tokenizer: Tokenizer of the policy.
        files: Where prompts and answers are.
        verifier: Judges responses as text (see `get_verifier`).
        max_new_tokens: Greatest length of a response.
        chat_template: Whether prompts are put into the chat template of the tokenizer, up to where the answer begins.
        name: Name of the task in records.
        options: `end_ids`, `bos` and `threshold` of `EncodedTask`.

    Raises:
        ValueError: A file is invalid (`DataFiles.read`), or as for `EncodedTask`; the message names the line.

    Example::

        from toy_models.verifiers import get_verifier

        task = FileTask(tokenizer, DataFiles("train.jsonl"), get_verifier("exact"), max_new_tokens=64)
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        files: DataFiles,
        verifier: Verifier,
        max_new_tokens: int,
        chat_template: bool = False,
        name: str = FILE_TASK,
        **options: Any,
    ) -> None:
        self.files = files
        required, optional = getattr(verifier, "required", ()), getattr(verifier, "optional", ())
        source = JudgedItems(name, files.items(required, optional), verifier)
        super().__init__(tokenizer, source, max_new_tokens, chat_template, **options)


def _case(item: TextItem, text: str) -> Case:
    given = item.prompt if isinstance(item.prompt, str) else list(item.prompt)
    question = last_question(chat_messages(given, item.id, "prompt"))
    return Case(
        question,
        str(text),
        accepted_answer(item.reference),
        getattr(text, "finished", True),
        given,
        item.reference,
        item.columns,
        getattr(text, "token_ids", ()),
    )
