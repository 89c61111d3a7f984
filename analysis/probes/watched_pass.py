"""One forward pass of the update that is under way: what a backward pass brought to it, and whether it may count.

A backward pass reaches a watched tensor (logits, log-probs, hidden states) with a gradient, or with None, which is
autograd's zero. What the hidden states see besides tells a loss without a gradient from one that went past the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..errors import UsageError
from .attached_tables import PassRows
from .capture import Capture, Caught
from .token_alignment import LinedUp

__all__ = ["WatchedPass", "note_gradient", "output_field"]


class WatchedPass:
    """One forward pass with a graph.

    Args:
        lined: which tokens its positions predict.
        keep_rows: (S,) bool, the sequences that are recorded.
        keep: (n,) flat indices of the recorded positions.
        capture: catches the gradient.
        reached: whether a gradient came to the hidden states; one list for each pass of the backbone.
        scale: what the loss is multiplied by.
        what: names the watched tensor.
        versions: of the parameters at the time of the forward pass (`handed_checks.parameter_versions`).
    """

    def __init__(
        self,
        lined: LinedUp,
        keep_rows: Tensor,
        keep: Tensor,
        capture: Capture,
        reached: list[list[bool]],
        scale: float,
        what: str,
        versions: tuple[int, ...],
    ) -> None:
        self.lined, self.what = lined, what
        self._keep_rows, self._keep, self._capture = keep_rows, keep, capture
        self._reached, self._scale, self._versions = reached, scale, versions
        self._none = False
        self._handle: RemovableHandle | None = None

    def watch(self, flowing: Tensor, others: Sequence[WatchedPass]) -> None:
        """Note when a backward pass comes to `flowing`; refuse it where `others` of the update had other parameters."""

        def arrive(gradient: Tensor | None) -> None:
            if gradient is None:
                self._none = True
            if any(other.arrived and other._versions != self._versions for other in others):
                raise UsageError(
                    "step: expected a call of trace.step() after each optimiser step, got a backward pass through "
                    "parameters that changed since one that no step followed; call trace.step() before the next "
                    "update, or two updates would be recorded as one"
                )

        self._handle = flowing.register_hook(arrive)

    @property
    def lost(self) -> bool:
        """Whether a gradient came to the hidden states, but none through the watched tensor."""
        return not self._caught and any(map(any, self._reached))

    @property
    def arrived(self) -> bool:
        """Whether a backward pass came through, with a gradient or with none."""
        return self._caught or self._none or self.lost

    @property
    def _caught(self) -> bool:
        # reading what was caught empties a capture; the pass keeps it, also for a step that is repeated
        return self._capture.caught or "rows" in vars(self)

    @cached_property
    def rows(self) -> PassRows:
        """What was caught, read once; weights are 0 where the backward pass had no gradient."""
        stats = self._capture.stats
        assert stats is not None
        if self._capture.caught:
            caught = self._capture.take()
        else:
            caught = Caught(torch.zeros(len(self._keep), dtype=torch.float64, device=self._keep.device))
        width = self.lined.tokens.shape[1]
        return PassRows(
            self.lined,
            self._keep_rows,
            self._keep // width,
            self._keep % width,
            stats,
            caught.weight / self._scale,
            caught.residual,
            caught.entropy_weight,
            caught.unmeasured,
            caught.least_residual,
        )

    def remove(self) -> None:
        """Take the hooks away."""
        self._capture.remove()
        if self._handle is not None:
            self._handle.remove()


def note_gradient(reached: list[bool]) -> Callable[[Tensor], None]:
    """A hook that appends True to `reached` when a gradient comes."""

    def hook(gradient: Tensor | None) -> None:
        if gradient is not None:
            reached.append(True)

    return hook


def output_field(output: Any, name: str) -> Tensor | None:
    """A tensor of a model's output by name; None where it has none."""
    if isinstance(output, tuple):  # return_dict=False: the loss may come first
        tensors = [x for x in output if isinstance(x, Tensor) and x.ndim == 3] if name == "logits" else []
        return tensors[0] if tensors else None
    value = getattr(output, name, None)
    return value if isinstance(value, Tensor) else None
