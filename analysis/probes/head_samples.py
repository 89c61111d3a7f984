"""Whether the logits that a model returned are still those that its output head gave.

A loss that the model computes by itself may write over the logits in the forward pass: Liger's cross-entropy leaves the
gradient there, without a version, and the model then returns that as its logits. A few columns of what the head gave
are kept and compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .output_heads import OutputHead

__all__ = ["HeadSamples"]

_COLUMNS = 8
_ROUNDING = 64  # roundings of the coarser type, as in `OutputHead.verify`


class HeadSamples:
    """A few entries of the head's last output; `see` is a forward hook on its layer."""

    def __init__(self, head: OutputHead) -> None:
        self._head = head
        step = max(1, head.vocabulary // _COLUMNS)
        self._columns = list(range(0, head.vocabulary, step))[:_COLUMNS]
        self._given: Tensor | None = None

    def see(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the columns of what the layer gave; within a compiled model nothing is kept."""
        if torch.compiler.is_compiling():
            return
        if torch.is_grad_enabled() and isinstance(output, Tensor) and output.shape[-1] > self._columns[-1]:
            self._given = output.detach()[..., self._columns]

    def take(self) -> Tensor | None:
        """The entries (B, K, C) of the last output; None where there was none since the last call."""
        given, self._given = self._given, None
        return given

    def check(self, given: Tensor | None, logits: Tensor) -> None:
        """Compare what `take` returned with what the model returned.

        Raises:
            UsageError: the logits are others.
        """
        found = logits.detach()[..., self._columns]
        if given is None or given.shape != found.shape:
            return
        z = given.double() * self._head.logit_scale
        cap = self._head.softcap
        z = z if cap is None else cap * torch.tanh(z / cap)
        eps = max(torch.finfo(t.dtype).eps for t in (given, found))
        off = (z - found.double()).abs()
        if bool((off > _ROUNDING * eps * (1 + z.abs())).any()):
            raise UsageError(
                f"model: expected the logits that its head gave, got others, which differ by up to "
                f"{float(off.max()):.3g}: the loss that the model computes wrote over them (as Liger's cross-entropy "
                "does). Call the model without labels and compute the loss from output.logits, or turn that kernel off"
            )
