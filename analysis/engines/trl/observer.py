"""What the hooks of a TRL trainer tell: the calls of one training, in their order."""

from __future__ import annotations

import contextlib
from typing import Protocol

from torch import Tensor

from .batches import Generation, Microbatch

__all__ = ["Observer"]


class Observer(Protocol):
    """What is done with what the hooks saw. Errors of these methods are those of recording, not of training."""

    def started(self, global_step: int) -> None:
        """Training starts, after `global_step` updates."""

    def generated(self, generation: Generation) -> None:
        """A generation batch was scored and cut into microbatches."""

    def computed(self, part: Microbatch, log_probs: Tensor) -> None:
        """The loss of a microbatch was computed from these log-probs with their graph; its backward pass is next."""

    def differentiated(self, parts: list[Microbatch], lr: float, grad_norm: float | None, skipped: bool) -> None:
        """All backward passes of an update are done; its optimiser step comes next."""

    def updated(self, skipped: bool) -> None:
        """The optimiser step is done."""

    def begun(self) -> None:
        """An update begins; everything of the one before is done."""

    def saved(self, last: bool) -> None:
        """A checkpoint was written, the last one if `last`."""

    def ended(self, status: str) -> None:
        """Training has ended: complete or interrupted. Called once, after the hooks were taken away."""

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """A context in which an error is one of recording: raised, or kept for `failed` after a warning."""

    @property
    def failed(self) -> bool:
        """Whether recording has failed in this process and is to end at the next update."""

    @property
    def next_step(self) -> int:
        """Number of the next generation batch."""

    def needs_replay(self, update: int) -> bool:
        """Whether the weights of this update are compared with a replay of its loss."""
