"""Classes of tokens by their text: words, numbers, marks of mathematics, punctuation, white space, special tokens.

A class is that of one token, not of its place: the `frac` of `\\frac` continues a word, the `\\` before it is a mark of
mathematics. Tokens that are parts of a character, and ids without a text, are "other".
"""

from __future__ import annotations

from ..records.token_text import Spelling

__all__ = ["CLASSES", "token_class"]

CLASSES = (
    "word",
    "rest of a word",
    "number",
    "mathematics",
    "punctuation",
    "white space",
    "special",
    "other",
)
_MATHEMATICS = frozenset("+-*/=<>^_\\$|&~%{}×÷±≤≥≠·√∞∑∫π°−")


def token_class(spelling: Spelling) -> str:
    """The class of a token: one of `CLASSES`.

    The first that fits counts: a special token; white space alone; a token with a digit; one with a letter, which
    begins a word if white space comes before it and continues one if not; one with a mark of mathematics; any other
    mark that is printed.

    >>> [token_class(Spelling(text, False)) for text in (" the", "ing", "12", " =", ".", "\\n\\n", "\\\\frac")]
    ['word', 'rest of a word', 'number', 'mathematics', 'punctuation', 'white space', 'rest of a word']
    >>> token_class(Spelling("<|im_end|>", True)), token_class(Spelling("#17", False))
    ('special', 'other')
    """
    text = spelling.text
    if spelling.special:
        return "special"
    if not text.strip():
        return "white space" if text else "other"
    if text.startswith("‹") or (text.startswith("#") and text[1:].isdigit()):
        return "other"
    if any(character.isdigit() for character in text):
        return "number"
    if any(character.isalpha() for character in text):
        return "word" if text[0].isspace() else "rest of a word"
    return "mathematics" if _MATHEMATICS & set(text) else "punctuation"
