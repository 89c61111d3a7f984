"""What a plug-in knows of one microbatch of an update, and the weights that its backward pass brought.

Every plug-in keeps a class of its own for its trainer's microbatches; sums over updates (`scalars`) and the comparison
with the trainer's own loss (`self_check`) need no more of it than `UpdatePart` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..laws import TokenStatistics

__all__ = ["UpdatePart", "Weights"]


class UpdatePart(Protocol):
    """One microbatch of an update in this process: (B, C) tensors of its responses; None is not known."""

    @property
    def update(self) -> int:
        """Number of the update."""

    @property
    def mask(self) -> Tensor:
        """(B, C) bool, tokens of the policy."""

    @property
    def advantages(self) -> Tensor:
        """(B, C)."""

    @property
    def log_probs(self) -> Tensor | None:
        """(B, C), without a graph."""

    @property
    def ref_log_probs(self) -> Tensor | None:
        """(B, C), under the reference."""

    @property
    def entropies(self) -> Tensor | None:
        """(B, C)."""

    @property
    def entropy_mask(self) -> Tensor:
        """(B, C) bool, tokens whose entropy is known."""

    @property
    def keep(self) -> Tensor | None:
        """(n,) flat places of the recorded tokens."""

    @property
    def stats(self) -> TokenStatistics | None:
        """(n,)."""

    @property
    def ratio(self) -> Tensor | None:
        """(B, C)."""

    @property
    def clip(self) -> Tensor | None:
        """(B, C) −1, 0 or +1."""

    @property
    def loss(self) -> float:
        """The loss of the microbatch as its trainer computed it."""

    @property
    def replayed(self) -> Tensor | None:
        """(B, C) float64, ∂loss/∂log π by a replay of the loss."""

    @property
    def replayed_entropy(self) -> Tensor | None:
        """(B, C) float64, ∂loss/∂H by the same replay."""


@dataclass(frozen=True)
class Weights:
    """Weights (B, C) in float64 with accumulation, world size and precision scale undone: of the update's loss."""

    policy: Tensor  # −∂L/∂log π_y without the KL
    kl: Tensor | None
    entropy: Tensor | None
    factor: float  # what the loss of the microbatch counts in that of the update

    @property
    def total(self) -> Tensor:
        """−∂L/∂log π_y."""
        return self.policy if self.kl is None else self.policy + self.kl
