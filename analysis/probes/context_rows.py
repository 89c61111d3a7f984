"""Which contexts are followed: positions of a few whole responses, so that one teacher-forced pass gives them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import torch

from ..common.short_repr import short_repr
from ..errors import UsageError
from ..records.encoding import Columns

__all__ = ["ContextRows", "draw_contexts"]


@short_repr
@dataclass(frozen=True)
class ContextRows:
    """A few whole responses, and the positions of each that are contexts.

    Attributes:
        kind: batch (from the minibatch being applied) or panel (held out, fixed at step 0).
        prompts: token ids, one list per response.
        responses: token ids.
        positions: positions of each response that are contexts, in increasing order.
        prompt_ids: one per response.
        step: step of the rollouts, where there is one.
        rollouts: index of each response in the batch of its step, where known.
        signs: +1 for a rewarded response, −1 for another, where known.
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
        return [
            response[position]
            for response, positions in zip(self.responses, self.positions, strict=True)
            for position in positions
        ]

    def columns(self, first: int) -> Columns:
        """Rows of the table `contexts`, numbered from `first`."""
        places = [(row, position) for row, positions in enumerate(self.positions) for position in positions]
        return {
            "context": list(range(first, first + len(places))),
            "kind": self.kind,
            "prompt_id": [self.prompt_ids[row] for row, _ in places],
            "prefix_ids": [self.prompts[row] + self.responses[row][:position] for row, position in places],
            "token": self.tokens,
            "step": self.step,
            "rollout": None if self.rollouts is None else [self.rollouts[row] for row, _ in places],
            "position": [position for _, position in places],
            "sign": None if self.signs is None else [self.signs[row] for row, _ in places],
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
    """Draw contexts from few responses at random, from rewarded and unrewarded ones in turn.

    A response gives at most an eighth of the contexts, at positions drawn at random; where the responses of one sign
    run out, the other sign fills the rest.

    Args:
        kind: batch or panel.
        prompts: token ids, one sequence per response.
        responses: token ids.
        prompt_ids: one per response.
        number: how many contexts; fewer where the responses have fewer tokens.
        generator: of the draw.
        signs: positive or not, one per response; None draws from all alike.
        rollouts: index of each response in the batch of its step.
        step: step of the responses.

    Raises:
        UsageError: an argument does not have one entry per response.

    Example:
        >>> rows = draw_contexts("panel", [[1]], [[2, 3]], ["a"], 8, torch.Generator().manual_seed(0))
        >>> rows.positions[0] in ([0], [1])
        True
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
    missing = number
    for row in order:
        count = min(len(responses[row]), most, missing)
        if count:
            rows.append(row)
            positions.append(sorted(torch.randperm(len(responses[row]), generator=generator)[:count].tolist()))
            missing -= count
        if not missing:
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
