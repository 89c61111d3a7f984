"""The gradients of the two signs of an update apart: their norms and their cosine.

    g⁺ = Σ over tokens with A > 0 of w·∇log π_y        g⁻ = the same over A < 0        cosine = ⟨g⁺, g⁻⟩/(‖g⁺‖‖g⁻‖)

with the weights w of the float64 replay, without the KL and an entropy bonus. −g⁺ − g⁻ is then the gradient of the
policy part of the update's loss before it is clipped. Two backward passes of each microbatch give them, before the one
of the trainer; they write to no parameter's `grad`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...probes.record_spec import RecordSpec
from .batches import Microbatch

__all__ = ["GradientSplit"]


class GradientSplit:
    """Adds up the gradients of the microbatches of one update.

    Raises:
        UsageError: there are several processes, each of which has a part of the gradient alone.
    """

    def __init__(self, trainer: Any, spec: RecordSpec) -> None:
        if spec.grad_cos_every and trainer.accelerator.num_processes > 1:
            raise UsageError(
                f"record.grad_cos_every: expected one process, got {trainer.accelerator.num_processes}, each with a "
                "part of the gradient; set it to 0"
            )
        self._trainer, self._every = trainer, spec.grad_cos_every
        self._sums: list[list[Tensor | None]] = []

    def due(self, update: int) -> bool:
        """Whether the gradients of this update are compared."""
        return self._every > 0 and update % self._every == 0

    def add(self, part: Microbatch, log_probs: Tensor) -> None:
        """Add those of a microbatch whose log-probs have their graph, and whose loss was replayed."""
        assert part.replayed is not None
        policy = part.replayed if part.kl_gradient is None else part.replayed - part.kl_gradient
        parameters = [p for p in self._trainer.model.parameters() if p.requires_grad]
        for place, sign in enumerate((part.advantages > 0, part.advantages < 0)):
            weights = (-policy * (sign & part.mask)).to(log_probs.dtype)
            found = torch.autograd.grad(log_probs, parameters, weights, retain_graph=True, allow_unused=True)
            if len(self._sums) <= place:
                self._sums.append([None] * len(parameters))
            self._sums[place] = [_added(x, y) for x, y in zip(self._sums[place], found, strict=True)]

    def take(self, factor: float) -> dict[str, float | None]:
        """Columns `grad_norm_pos`, `grad_norm_neg` and `grad_cos` of the table `updates`; starts anew.

        Args:
            factor: what the loss of a microbatch counts in that of the update.
        """
        if not self._sums:
            return {}
        (first, second), self._sums = self._sums, []
        norms = [_product(x, x) ** 0.5 for x in (first, second)]
        cosine = _product(first, second) / (norms[0] * norms[1]) if min(norms) > 0 else None
        return {"grad_norm_pos": norms[0] * factor, "grad_norm_neg": norms[1] * factor, "grad_cos": cosine}


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _product(first: list[Tensor | None], second: list[Tensor | None]) -> float:
    pairs = zip(first, second, strict=True)
    return sum(float((x.double() * y.double()).sum()) for x, y in pairs if x is not None and y is not None)
