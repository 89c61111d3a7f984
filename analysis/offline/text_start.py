"""The mark of a space that a tokenizer puts at the start of a text, and texts that continue others.

The mark is part of the first word: sentencepiece tokenizers (Llama 2, Mistral) read "2" as "▁2", the token of a 2 after
a space. Within a text, after "1+1=", the 2 is another token, without the mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toy_models.tasks.texts import encode_text

__all__ = ["encode_continuation", "marks_start"]

_MARKS = ("\u2581", "\u0120")  # of sentencepiece, and of byte-level BPE with add_prefix_space
_WORDS = ("a", "2", "x")  # that no tokenizer knows with a space only
_ANCHORS = ("\n", "=", ":", ".", "a")  # texts that a response may be read after


def marks_start(tokenizer: Any) -> bool:
    """Whether the tokenizer reads a text as if a space stood before it."""
    for word in _WORDS:
        ids = _encoded(tokenizer, word)
        if ids:
            first = tokenizer.convert_ids_to_tokens(ids[0])
            return isinstance(first, str) and first.startswith(_MARKS)
    return False


def encode_continuation(tokenizer: Any, before: str, text: str, where: str) -> tuple[int, ...]:
    """Token ids of a text that continues another one, without what stands at the start of a text only.

    The text is encoded after `before`, and, where its tokens and those of `before` overlap, after some short text.

    Raises ValueError where none of them leaves the tokens of the text apart.
    """
    encode_text(tokenizer, text, where)  # names a text that cannot be encoded
    for anchor in (before, *_ANCHORS):
        start, whole = _encoded(tokenizer, anchor), _encoded(tokenizer, anchor + text)
        if start and len(whole) > len(start) and whole[: len(start)] == start:
            return tuple(whole[len(start) :])
    raise ValueError(
        f"{where}: the tokenizer puts a space before every text, and the tokens of a response that continues its "
        "prompt cannot be told from it; give token ids (response_ids), or choose responses_apart (--responses-apart)"
    )


def _encoded(tokenizer: Any, text: str) -> Sequence[int]:
    try:
        return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]
    except Exception:  # tokenizers raises a bare Exception for a word that it does not know
        return []
