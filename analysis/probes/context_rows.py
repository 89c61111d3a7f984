"""Which contexts are followed: positions of a few whole responses, drawn at random.

Contexts are positions of a few whole responses, so that one teacher-forced pass gives them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal

import torch

from ..errors import UsageError

__all__ = ["ContextRows", "draw_contexts"]


@dataclass(frozen=True)
class ContextRows:
    """Whole responses, a few of them, and the positions of each that are contexts, in increasing order.

    `signs` (±1) and `rollouts` have one entry per response where they are known.
    """

    kind: Literal["batch", "panel"]
    prompts: list[list[int]]
    responses: list[list[int]]
    positions: list[list[int]]
    prompt_ids: list[str]
    step: int | None = None
    rollouts: list[int] | None = None
    signs: list[int] | None = None

    def __len__(self) -> int:
        return sum(len(positions) for positions in self.positions)

    @property
    def tokens(self) -> list[int]:
        """The token y of each context."""
        return [r[at] for r, positions in zip(self.responses, self.positions, strict=True) for at in positions]

    def columns(self, first: int) -> dict[str, list[Any]]:
        """Rows of the table `contexts`, numbered from `first`."""
        at = [(row, position) for row, positions in enumerate(self.positions) for position in positions]
        missing = [None] * len(at)
        return {
            "context": list(range(first, first + len(at))),
            "kind": [self.kind] * len(at),
            "prompt_id": [self.prompt_ids[row] for row, _ in at],
            "prefix_ids": [self.prompts[row] + self.responses[row][:position] for row, position in at],
            "token": self.tokens,
            "step": [self.step] * len(at),
            "rollout": missing if self.rollouts is None else [self.rollouts[row] for row, _ in at],
            "position": [position for _, position in at],
            "sign": missing if self.signs is None else [self.signs[row] for row, _ in at],
        }


def draw_contexts(
    kind: Literal["batch", "panel"],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    prompt_ids: Sequence[str],
    number: int,
    generator: torch.Generator,
    *,
    signs: Sequence[int] | None = None,
    rollouts: Sequence[int] | None = None,
    step: int | None = None,
) -> ContextRows:
    """At most `number` contexts from few responses, at random, rewarded and unrewarded ones in turn.

    A response gives at most an eighth of the contexts, positions drawn at random where it is longer; one sign alone
    fills the rest where the other runs out. `signs` are positive or not, one per response.

    Raises UsageError where the arguments do not have one entry per response.
    """
    given = {"prompts": prompts, "prompt_ids": prompt_ids, "signs": signs, "rollouts": rollouts}
    for name, values in given.items():
        if values is not None and len(values) != len(responses):
            raise UsageError(f"{name}: expected {len(responses)} entries, one per response, got {len(values)}")
    order = torch.randperm(len(responses), generator=generator).tolist()
    if signs is not None:
        kinds = [[row for row in order if (signs[row] > 0) is positive] for positive in (True, False)]
        order = [row for row in chain.from_iterable(zip_longest(*kinds)) if row is not None]
    most = -(-number // 8)
    rows: list[int] = []
    positions: list[list[int]] = []
    wanted = number
    for row in order:
        take = min(len(responses[row]), most, wanted)
        if take:
            rows.append(row)
            positions.append(sorted(torch.randperm(len(responses[row]), generator=generator)[:take].tolist()))
            wanted -= take
        if not wanted:
            break
    return ContextRows(
        kind=kind,
        prompts=[[int(token) for token in prompts[row]] for row in rows],
        responses=[[int(token) for token in responses[row]] for row in rows],
        positions=positions,
        prompt_ids=[prompt_ids[row] for row in rows],
        step=step,
        rollouts=None if rollouts is None else [int(rollouts[row]) for row in rows],
        signs=None if signs is None else [1 if signs[row] > 0 else -1 for row in rows],
    )
