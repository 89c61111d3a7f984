"""What `attach` and `watch` record, and how often."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["RecordSpec"]


@dataclass(frozen=True)
class RecordSpec:
    """What `attach` and `watch` record.

    Attributes:
        tokens: fraction of the prompts whose tokens are recorded, above 0 and at most 1. Prompts are drawn by a hash of
            prompt, update and seed: all responses to a prompt are recorded or none, and at least one prompt in each
            update. The others cost nothing; 1 records every token.
        top_k: how many of the most probable tokens are recorded, with their probabilities.
        rank: whether the rank of each token is recorded.
        chunk: updates in a commit of the run folder.
        seed: seed of the draws.
        contexts: of `watch`: how many held-out contexts are evaluated before and after updates, 0 for none.
        contexts_every: of `watch`: at every how many updates they are; each time costs two passes over their responses.
        grad_cos_every: of `watch`: at every how many updates the gradients of the two signs are compared, 0 for never;
            each time costs two backward passes over the update's rollouts and two copies of the gradient.

    Raises:
        UsageError: a value is out of range.

    >>> RecordSpec(tokens=2)
    Traceback (most recent call last):
    analysis.errors.UsageError: record.tokens: expected a fraction above 0 and at most 1, got 2
    """

    tokens: float = 0.125
    top_k: int = 0
    rank: bool = False
    chunk: int = 10
    seed: int = 0
    contexts: int = 0
    contexts_every: int = 1
    grad_cos_every: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.tokens <= 1:
            raise UsageError(f"record.tokens: expected a fraction above 0 and at most 1, got {self.tokens}")
        whole = ("top_k", 0), ("chunk", 1), ("seed", 0), ("contexts", 0), ("contexts_every", 1), ("grad_cos_every", 0)
        for name, least in whole:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"record.{name}: expected a whole number from {least}, got {value!r}")
        if not isinstance(self.rank, bool):
            raise UsageError(f"record.rank: expected True or False, got {self.rank!r}")

    def drawn(self, turn: int, prompt_ids: Sequence[str]) -> frozenset[str]:
        """The prompts of one update or batch whose tokens are recorded: a fraction `tokens` of them, at least one.

        Args:
            turn: number of the update or batch; each has a draw of its own.
            prompt_ids: names of the prompts; the same name is drawn once.

        Returns:
            Names of the prompts that are recorded, the same in every process.

        >>> RecordSpec(tokens=1).drawn(0, ["a", "b"]) == {"a", "b"}
        True
        >>> len(RecordSpec(tokens=0.01).drawn(0, ["a", "b"]))
        1
        """
        if self.tokens == 1 or not prompt_ids:
            return frozenset(prompt_ids)
        draws = {name: self.draw(turn, name) for name in prompt_ids}
        below = frozenset(name for name, draw in draws.items() if draw < self.tokens)
        return below or frozenset([min(draws, key=lambda name: draws[name])])

    def draw(self, turn: int, prompt_id: str) -> float:
        """Uniform on [0, 1), the same for every pass of a turn and in every process."""
        digest = hashlib.sha256(f"{self.seed}:{turn}:{prompt_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64
