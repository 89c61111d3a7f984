"""Every token sequence that decodes to a text: what makes a list of correct texts a list of correct responses.

A subword tokenizer writes one text in several ways ("27" as one token, or as "2" and "7"). Its `encode` gives one of
them, and a policy may sample any. The success probability of a list of texts is exact only where all are summed.

They can be listed where decoding joins the pieces of the tokens, whatever stands next to each: byte-level BPE (GPT-2,
Llama 3, Qwen, SmolLM2), and words that are split at white space and joined by single spaces. Tokenizers that drop a
leading space or look at neighbours (SentencePiece and WordPiece decoders, cleaned-up spaces) have no such list here.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

__all__ = ["MOST", "Encodings"]

MOST = 100_000  # encodings of one text; a text with more is not enumerated


class Encodings:
    """The token sequences of texts under one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
        without: Ids that no sequence may hold, such as end tokens, which end a response instead.

    Attributes:
        reason: Why sequences cannot be listed with this tokenizer; None where they can.

    Example:
        >>> from toy_models import word_tokenizer
        >>> encodings = Encodings(word_tokenizer(["<pad>", "$", "4", "2"], pad="<pad>", eos="$"))
        >>> encodings.of("4 2", longest=3)
        [(2, 3)]
    """

    def __init__(self, tokenizer: Any, without: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._words = False
        self.reason = self._unfit()
        self._pieces: dict[bytes, list[int]] = {}
        self._longest_piece = 0
        if self.reason is None:
            left_out = {*without}
            for token, text in _pieces(tokenizer, words=self._words).items():
                if token not in left_out and text:
                    self._pieces.setdefault(text, []).append(token)
            self._longest_piece = max(map(len, self._pieces), default=0)

    def of(self, text: str, longest: int) -> list[tuple[int, ...]] | None:
        """Every sequence of at most `longest` tokens that decodes to the text, special tokens shown.

        Args:
            text: Any text.
            longest: Greatest number of tokens.

        Returns:
            Distinct sequences, sorted; None where there are more than `MOST`, or the text holds U+FFFD, which stands
            for any bytes that are no text.

        Raises:
            ValueError: The tokenizer has no such list (`reason`).
        """
        if self.reason is not None:
            raise ValueError(f"encodings: {self.reason}")
        if "\ufffd" in text:
            return None
        data = (f" {text}" if self._words and text else text).encode()
        found = self._extended(data, longest)
        return None if found is None else sorted(found)

    def _extended(self, data: bytes, longest: int) -> list[tuple[int, ...]] | None:
        """Sequences by their place in the text: at each byte those that end there, from the first byte on."""
        ends: list[list[tuple[int, ...]]] = [[] for _ in range(len(data) + 1)]
        ends[0] = [()]
        for place in range(len(data)):
            if not ends[place]:
                continue
            for length in range(1, min(self._longest_piece, len(data) - place) + 1):
                for token in self._pieces.get(data[place : place + length], ()):
                    ends[place + length] += [(*s, token) for s in ends[place] if len(s) < longest]
                    if len(ends[place + length]) > MOST:
                        return None
            ends[place] = [] if place else ends[0]
        return ends[-1]

    def _unfit(self) -> str | None:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return "the tokenizer is none of the package tokenizers, whose decoder is known"
        if getattr(self._tokenizer, "clean_up_tokenization_spaces", False):
            return "the tokenizer cleans up spaces when it decodes"
        decoder = json.loads(backend.to_str())["decoder"]
        if decoder is None:
            self._words = True
            return None
        if decoder["type"] == "ByteLevel":
            return None
        return f"the decoder of the tokenizer ({decoder['type']}) does not join the pieces of its tokens as they are"


def _pieces(tokenizer: Any, *, words: bool) -> dict[int, bytes]:
    """The bytes that each token adds to a text."""
    pieces = {}
    for token, i in tokenizer.get_vocab().items():
        if words:
            pieces[int(i)] = f" {token}".encode()
        elif all(letter in _byte_of() for letter in token):
            pieces[int(i)] = bytes(_byte_of()[letter] for letter in token)
        else:  # an added token that is written as it is
            pieces[int(i)] = token.encode()
    return pieces


@lru_cache(1)
def _byte_of() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`, reversed)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in plain}
    for at, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + at)
    return {letter: byte for byte, letter in letters.items()}
