"""Token ids as text, from what a run folder holds: its checkpoint's tokenizer, else words of its own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reader import Run

__all__ = ["decoder"]

Decode = Callable[[Sequence[int]], str]


def decoder(run: Run) -> Decode:
    """Text of token ids. Without a tokenizer in the run folder, its own or its checkpoint's, recorded texts that have
    one word a token serve as the vocabulary; an id that none of them holds reads `#id`."""
    places = (run.folder / "checkpoints" / "final" / "tokenizer.json", run.folder / "tokenizer.json")
    file = next((file for file in places if file.is_file()), None)
    if file is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return lambda ids: str(tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))
    words = _recorded_words(run)
    return lambda ids: " ".join(words.get(int(i), f"#{int(i)}") for i in ids)


def _recorded_words(run: Run) -> dict[int, str]:
    words: dict[int, str] = {}
    for table, ids, text in (("prompts", "token_ids", "text"), ("rollouts", "response_ids", "response_text")):
        rows = run.table(table, [ids, text])
        for tokens, written in zip(rows[ids], rows[text].str.split(), strict=True):
            if len(tokens) == len(written):
                words.update(zip((int(i) for i in tokens), written, strict=True))
    return words
