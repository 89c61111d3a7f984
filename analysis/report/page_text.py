"""Tokens of runs as text: one vocabulary for all runs that spell every shared id alike, else one for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records.token_text import spelling_of

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["Vocabularies"]


@dataclass
class Vocabularies:
    """Vocabularies of a page.

    Attributes:
        texts: of each vocabulary, token id -> text.
        special: of each vocabulary, ids of special tokens.
    """

    texts: list[dict[int, str]] = field(default_factory=list)
    special: list[set[int]] = field(default_factory=list)

    def place(self, run: Run, ids: Iterable[np.ndarray]) -> int:
        """Take in the ids that a run shows; the index of its vocabulary."""
        spell = spelling_of(run)
        known = [np.asarray(part, dtype=np.int64) for part in ids]
        shown = {int(i): spell(int(i)) for i in np.unique(np.concatenate([*known, np.empty(0, np.int64)]))}
        texts = {i: spelling.text for i, spelling in shown.items()}
        special = {i for i, spelling in shown.items() if spelling.special}
        for at, other in enumerate(self.texts):
            if all(other.get(i, text) == text for i, text in texts.items()):
                other.update(texts)
                self.special[at] |= special
                return at
        self.texts.append(texts)
        self.special.append(special)
        return len(self.texts) - 1

    def to_json(self) -> list[dict[str, Any]]:
        """ids, texts and special ids of each vocabulary."""
        return [
            {"ids": list(texts), "texts": list(texts.values()), "special": sorted(special)}
            for texts, special in zip(self.texts, self.special, strict=True)
        ]
