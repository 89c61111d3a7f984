"""The distinct prompts of a split, by the hashes of their tokens; the tokens are made when a prompt is drawn.

What is held of a prompt is the place of its item and the 64 bits of its name (`prompt_hash`), 16 bytes. Prompts of one
name are one prompt, as records tell prompts apart by it; two different ones among a million share a name with a
probability of 3e-8. The names of the items of a large file are kept in the cache folder under what they depend on: the
content of the file, the tokenizer, the chat template and the start token. So a million prompts are put into tokens once
and not at each start.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from ..file_digests import kept_folder
from ..large_tables import short_hash
from ..verifiers.accepted_answers import accepted_answer
from .start_tokens import with_start
from .task import Prompt, prompt_hash
from .text_task import TextItem
from .texts import encode_text, render_prompt

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    Array = np.ndarray[Any, Any]

__all__ = ["EncodedItem", "PromptEncoder", "PromptList", "PromptTable"]

_SHOWN = 200  # characters of a text in a message
_DRAWN = 1 << 14  # prompts whose tokens are remembered
_BATCH = 1000  # prompts that a tokenizer gets at a time
_VERSION = 1  # of what is kept


@dataclass(frozen=True)
class EncodedItem:
    """One item with its prompt as tokens and as the text that these stand for."""

    ids: tuple[int, ...]
    rendered: str
    item: TextItem

    @property
    def answer(self) -> str | None:
        """The reference answer as text."""
        return _answer(self.item)


@dataclass(frozen=True)
class PromptEncoder:
    """How items become tokens.

    Attributes:
        tokenizer: Tokenizer of the policy.
        chat_template: Whether prompts are put into its chat template.
        start: Tokens that each prompt begins with.
        task: What the items are of, for messages.
        split: Their split, for messages.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template: bool
    start: tuple[int, ...]
    task: str
    split: str

    def rendered(self, item: TextItem) -> str:
        """The prompt as text, in the chat template where that is chosen."""
        if not all(hasattr(item, name) for name in ("id", "prompt", "reference")):
            raise ValueError(
                f"{self.task}: expected toy_models.TextItem objects from items({self.split!r}), got "
                f"{type(item).__name__} {str(item)[:_SHOWN]!r}"
            )
        prompt = item.prompt if isinstance(item.prompt, str) else list(item.prompt)
        return render_prompt(self.tokenizer, prompt, item.id, "prompt", chat_template=self.chat_template)[1]

    def encoded(self, item: TextItem) -> EncodedItem:
        """The item in tokens. Raises ValueError, naming it, where that is not possible."""
        rendered = self.rendered(item)
        return EncodedItem(with_start(encode_text(self.tokenizer, rendered, item.id), self.start), rendered, item)

    def names(self, items: Sequence[TextItem]) -> Array:
        """Hashes of (prompt, answer) of each item, of shape (2, items)."""
        import numpy as np

        found = np.empty((2, len(items)), np.uint64)
        for begin in range(0, len(items), _BATCH):
            part = items[begin : begin + _BATCH]
            for i, (ids, item) in enumerate(zip(self._many(part), part, strict=True), start=begin):
                answer = _answer(item)
                found[0, i] = int(prompt_hash(ids), 16)
                found[1, i] = 0 if answer is None else short_hash(answer)
        return found

    @property
    def digest(self) -> str:
        """What the tokens of a text depend on."""
        tokenizer: Any = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
        template = tokenizer.chat_template if self.chat_template else None
        parts = [_VERSION, type(tokenizer).__qualname__, made, template, self.start]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _many(self, items: Sequence[TextItem]) -> Iterator[tuple[int, ...]]:
        if len(items) == _BATCH and getattr(self.tokenizer, "is_fast", False):
            texts = [self.rendered(item) for item in items]
            with contextlib.suppress(Exception):  # one by one, the text at fault is named
                rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
                if all(rows):
                    yield from (with_start(tuple(row), self.start) for row in rows)
                    return
        yield from (self.encoded(item).ids for item in items)


class PromptTable:
    """The distinct prompts of a split.

    Args:
        items: The items that they are of.
        encoder: How these become tokens.
        places: The item of each prompt.
        keys: The name of each prompt as a number.
    """

    def __init__(self, items: Sequence[TextItem], encoder: PromptEncoder, places: Array, keys: Array) -> None:
        self.items, self.encoder, self._places, self._keys = items, encoder, places, keys
        self._order: Array | None = None
        self._drawn = functools.lru_cache(_DRAWN)(self._encode)

    @classmethod
    def of(cls, items: Sequence[TextItem], encoder: PromptEncoder) -> PromptTable:
        """The distinct prompts of items, in their order; the first of those with the same prompt counts.

        Raises:
            ValueError: A prompt cannot be put into tokens, or two items with the same prompt have different answers.
        """
        import numpy as np

        keys, answers = _names(items, encoder)
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        earlier = first[which]
        wrong = np.flatnonzero(answers != answers[earlier])
        if len(wrong):
            item, same = items[int(wrong[0])], items[int(earlier[wrong[0]])]
            raise ValueError(
                f"{item.id}: expected the answer {_answer(same)!r} of {same.id}, which has the same prompt, got "
                f"{_answer(item)!r}; keep one of the two"
            )
        places = np.sort(first)
        return cls(items, encoder, places, keys[places])

    def __reduce__(self) -> tuple[Any, ...]:
        return PromptTable, (self.items, self.encoder, self._places, self._keys)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> EncodedItem:
        return self._drawn(int(self._places[index]))

    @property
    def last(self) -> TextItem:
        """The item of the last prompt."""
        return self.items[int(self._places[-1])]

    def name(self, index: int) -> str:
        """The name of a prompt in records."""
        return f"{int(self._keys[index]):016x}"

    def find(self, ids: tuple[int, ...]) -> EncodedItem | None:
        """The item with this prompt; None where there is none."""
        import numpy as np

        if self._order is None:
            self._order = np.argsort(self._keys, kind="stable")
        key = np.uint64(int(prompt_hash(ids), 16))
        place = int(np.searchsorted(self._keys, key, sorter=self._order))
        if place == len(self) or self._keys[self._order[place]] != key:
            return None
        encoded = self[int(self._order[place])]
        return encoded if encoded.ids == ids else None

    def check_apart(self, other: PromptTable) -> None:
        """Raises ValueError for a prompt that another split has, too."""
        import numpy as np

        both = np.flatnonzero(np.isin(self._keys, other._keys))
        if len(both):
            encoded = self[int(both[0])]
            same = other.find(encoded.ids)
            assert same is not None
            raise ValueError(
                f"{encoded.item.id}: expected a prompt of one split only, got that of {same.item.id}; remove one of "
                "them, since training must not see held-out prompts"
            )

    def by_hash(self, size: int, count: int) -> list[PromptTable]:
        """The first `count` parts of `size` prompts in the order of their names."""
        import numpy as np

        order = np.argsort(self._keys, kind="stable")
        return [self._part(order[i * size : (i + 1) * size]) for i in range(count)]

    def without(self, parts: Sequence[PromptTable]) -> PromptTable:
        """The prompts that are in none of the parts, in their order."""
        import numpy as np

        held = np.concatenate([part._keys for part in parts]) if parts else np.zeros(0, np.uint64)
        return self._part(np.flatnonzero(~np.isin(self._keys, held)))

    def _part(self, indices: Array) -> PromptTable:
        return PromptTable(self.items, self.encoder, self._places[indices], self._keys[indices])

    def _encode(self, place: int) -> EncodedItem:
        return self.encoder.encoded(self.items[place])


class PromptList(Sequence[Prompt]):
    """The prompts of a split as a sequence: each is put into tokens when it is asked for."""

    def __init__(self, table: PromptTable, split: str) -> None:
        self._table, self._split = table, split

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self._prompt(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._prompt(index % len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Sequence[Prompt]) -> list[Prompt]:
        return [*self, *other]

    def _prompt(self, index: int) -> Prompt:
        encoded = self._table[index]
        return Prompt(self._table.name(index), encoded.ids, encoded.rendered, self._split, encoded.answer)


def _answer(item: TextItem) -> str | None:
    return None if item.reference is None else accepted_answer(item.reference)


def _names(items: Sequence[TextItem], encoder: PromptEncoder) -> Array:
    """Hashes of (prompt, answer) of each item; those of a large file from the cache folder where they are there."""
    import numpy as np

    digest = getattr(items, "digest", None)
    folder = None if digest is None else kept_folder("prompts")
    if folder is None:
        return encoder.names(items)
    key = hashlib.sha256(f"{digest} {encoder.digest}".encode()).hexdigest()
    note = folder / f"{key}.npy"
    if note.exists():
        with contextlib.suppress(OSError, ValueError):
            known: Array = np.load(note)
            if known.shape == (2, len(items)):
                return known
    names = encoder.names(items)
    with contextlib.suppress(OSError):
        part = note.with_name(f"{key}.{os.getpid()}.npy")
        np.save(part, names)
        part.replace(note)
    return names
