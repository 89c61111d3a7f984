"""The start token of a text (BOS): what a tokenizer puts before a text by default, and a prompt that begins with it.

A chat template may write the start token, too; a prompt has it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["required_start", "start_tokens", "with_start"]

_WORDS = ("a", "2", "x")  # that no tokenizer knows with a space only


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that the tokenizer itself adds at the start of a text; empty where it adds none.

    Args:
        tokenizer: Of transformers, or of the package tokenizers.
    """
    for word in _WORDS:
        plain, full = _encoded(tokenizer, word, special=False), _encoded(tokenizer, word, special=True)
        for begin in range(len(full) - len(plain) + 1) if plain else ():
            if full[begin : begin + len(plain)] == plain:
                return tuple(full[:begin])
    return ()


def required_start(tokenizer: Any) -> tuple[int, ...]:
    """The same; of a tokenizer that adds none by itself, its start token.

    Raises:
        ValueError: It has none.
    """
    if start := start_tokens(tokenizer):
        return start
    if tokenizer.bos_token_id is None:
        raise ValueError(
            "bos: expected a tokenizer with a start token, got one without; leave bos out, or set tokenizer.bos_token"
        )
    return (int(tokenizer.bos_token_id),)


def with_start(ids: tuple[int, ...], start: tuple[int, ...]) -> tuple[int, ...]:
    """The prompt with the start tokens before it, unless it begins with them.

    >>> with_start((7, 8), (1,)), with_start((1, 7), (1,))
    ((1, 7, 8), (1, 7))
    """
    return ids if ids[: len(start)] == start else (*start, *ids)


def _encoded(tokenizer: Any, text: str, *, special: bool) -> Sequence[int]:
    try:
        encoded = tokenizer.encode(text, add_special_tokens=special)
    except Exception:  # tokenizers raises a bare Exception for a word that it does not know
        return []
    return [int(i) for i in getattr(encoded, "ids", encoded)]
