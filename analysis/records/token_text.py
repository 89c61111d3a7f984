"""Token ids as text, from what a run folder holds: its checkpoint's tokenizer, else words of its own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .folders import TOKENIZER_FILE
from .frames import TOKEN_TEXT
from .recorded import Recorded

__all__ = ["Spelling", "WordOf", "decoder", "spelling_of", "with_token_text", "word_of"]

Decode = Callable[[Sequence[int]], str]
WordOf = Callable[[int], str | None]  # token id -> its text, None where it is not known


def decoder(run: Recorded) -> Decode:
    """Text of token ids.

    Without a tokenizer in the run folder, its own or its checkpoint's, recorded texts that have one word a token serve
    as the vocabulary; an id that none of them holds reads `#id`.
    """
    tokenizer = _tokenizer(run.folder)
    if tokenizer is not None:
        return lambda ids: str(tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))
    words = _recorded_words(run)
    return lambda ids: " ".join(words.get(int(i), f"#{int(i)}") for i in ids)


def word_of(run: Recorded) -> WordOf:
    """Text of one token id, by the same sources as `decoder`; None for an id that they do not hold."""
    tokenizer = _tokenizer(run.folder)
    if tokenizer is None:
        return _recorded_words(run).get
    return lambda i: None if tokenizer.id_to_token(i) is None else str(tokenizer.decode([i], skip_special_tokens=False))


def with_token_text(rows: pa.Table, word: WordOf) -> pa.Table:
    """`rows`, which have the column `token`, with the text of each token as the last column.

    >>> rows = pa.table({"token": [3, 4, 3]})
    >>> with_token_text(rows, {3: "a"}.get).column("token_text").to_pylist()
    ['a', None, 'a']
    """
    ids, places = np.unique(rows.column("token").to_numpy(), return_inverse=True)
    texts = pa.array([word(int(i)) for i in ids], pa.string()).take(pa.array(places))
    return rows.append_column(pa.field(TOKEN_TEXT.name, pa.string(), metadata={"doc": TOKEN_TEXT.doc}), texts)


def _tokenizer(folder: Path) -> Any | None:
    places = (folder / "checkpoints" / "final" / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    file = next((file for file in places if file.is_file()), None)
    if file is None:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _recorded_words(run: Recorded) -> dict[int, str]:
    words: dict[int, str] = {}
    for table, ids, text in (("prompts", "token_ids", "text"), ("rollouts", "response_ids", "response_text")):
        rows = run.table(table, [ids, text])
        for tokens, written in zip(rows[ids], rows[text].str.split(), strict=True):
            if len(tokens) == len(written):
                words.update(zip((int(i) for i in tokens), written, strict=True))
    return words


class Spelling(NamedTuple):
    """One entry of a vocabulary as it is shown: `text`, and whether it is a special token."""

    text: str
    special: bool


def spelling_of(run: Recorded) -> Callable[[int], Spelling]:
    """How single tokens are shown, by the same sources as `decoder`.

    Spaces at the start of a word are kept. A token that is only part of a character is shown by its bytes, as
    `‹E4 B8›`, and an id that no source holds as `#id`.
    """
    tokenizer = _tokenizer(run.folder)
    if tokenizer is None:
        words = _recorded_words(run)
        return lambda i: Spelling(words.get(i, f"#{i}"), False)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return lambda i: Spelling(_spelling(tokenizer, i), i in special)


def _spelling(tokenizer: Any, i: int) -> str:
    raw = tokenizer.id_to_token(i)
    if raw is None:
        return f"#{i}"
    text = str(tokenizer.decode([i], skip_special_tokens=False))
    if "\ufffd" in text:
        codes = [_BYTE_OF.get(character) for character in raw]
        known = [f"{code:02X}" for code in codes if code is not None]
        return f"‹{' '.join(known)}›" if len(known) == len(raw) else raw
    if raw.startswith("▁") and not text.startswith(" "):  # SentencePiece decoders drop the space of a first word
        return " " + text
    return text or raw


def _byte_alphabet() -> dict[str, int]:
    """Characters of byte-level vocabularies -> the byte that each stands for (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [code for code in range(256) if code not in shown]
    return {chr(code): code for code in shown} | {chr(256 + at): code for at, code in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
